//! JSON, line by line: how QEMU and its guest agent talk.

use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// One end of such a conversation.
pub struct Channel {
    stream: BufReader<UnixStream>,
    /// Of the last `guest-sync`.
    mark: u64,
}

impl Channel {
    pub fn new(stream: UnixStream) -> Self {
        Channel {
            stream: BufReader::new(stream),
            mark: 0,
        }
    }

    /// Leaves QMP's negotiation.
    pub async fn greet(&mut self) -> io::Result<()> {
        let _ = self.ask("qmp_capabilities", json!({})).await?;
        Ok(())
    }

    /// Skips what an agent still had to say to somebody who has gone.
    pub async fn sync(&mut self) -> io::Result<()> {
        self.mark += 1;
        let mark = self.mark;
        self.send("guest-sync", json!({"id": mark})).await?;
        while self.receive().await?["return"] != mark {}
        Ok(())
    }

    /// Gives what a command returns, or what it has against it. Events are skipped.
    pub async fn ask(&mut self, name: &str, arguments: Value) -> io::Result<Result<Value, String>> {
        self.send(name, arguments).await?;
        loop {
            let mut answer = self.receive().await?;
            if let Some(error) = answer["error"]["desc"].as_str() {
                return Ok(Err(error.to_owned()));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(Ok(value.take()));
            }
        }
    }

    async fn send(&mut self, name: &str, arguments: Value) -> io::Result<()> {
        let line = format!("{}\n", json!({"execute": name, "arguments": arguments}));
        self.stream.get_mut().write_all(line.as_bytes()).await
    }

    async fn receive(&mut self) -> io::Result<Value> {
        let mut line = vec![];
        // After a reset of the guest there may be a byte that is no JSON.
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Ok(value) = serde_json::from_slice(&line) {
                return Ok(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A channel whose other end has said all this already.
    async fn hearing(lines: &str) -> (Channel, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(lines.as_bytes()).await.unwrap();
        (Channel::new(ours), theirs)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_answer_is_passed_over() {
        let lines = "{\"event\": \"RESET\"}\n{\"return\": {\"pid\": 7}}\n";
        let (mut channel, _theirs) = hearing(lines).await;
        let answer = channel.ask("guest-exec", json!({})).await.unwrap();
        assert_eq!(answer, Ok(json!({"pid": 7})));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_error_is_an_answer() {
        let lines = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such file\"}}\n";
        let (mut channel, _theirs) = hearing(lines).await;
        let answer = channel.ask("guest-exec", json!({})).await.unwrap();
        assert_eq!(answer, Err("no such file".into()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn after_a_sync_old_answers_are_gone() {
        let lines = "{\"return\": {\"old\": 1}}\n\u{ff}\n{\"return\": 1}\n{\"return\": {}}\n";
        let (mut channel, _theirs) = hearing(lines).await;
        channel.sync().await.unwrap();
        let answer = channel.ask("guest-ping", json!({})).await.unwrap();
        assert_eq!(answer, Ok(json!({})));
    }
}
