//! QMP: QEMU's own control protocol, over a socket that only QEMU and we hold.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::error::{Error, Result};

/// A connection that is ready for commands.
pub struct Qmp {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    events: VecDeque<Event>,
}

/// Something that QEMU tells by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

impl Qmp {
    /// Takes the greeting and leaves negotiation mode.
    pub async fn open(stream: UnixStream) -> Result<Self> {
        let (reader, writer) = stream.into_split();
        let mut qmp = Qmp {
            lines: BufReader::new(reader).lines(),
            writer,
            events: VecDeque::new(),
        };
        let greeting = qmp.receive().await?;
        if greeting.get("QMP").is_none() {
            return Err(Error::new("greeting QEMU").cause(format!("it said {greeting}")));
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command and returns its result. Not to be dropped half-way: the answer would be taken for the next one's.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let doing = || Error::new(format!("asking QEMU to {command}"));
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        let written = self.writer.write_all(line.as_bytes()).await;
        written.map_err(|error| doing().cause(error))?;
        self.answer(command).await
    }

    /// Gives QEMU a descriptor under a name that other commands take.
    pub async fn hand_over(&mut self, name: &str, fd: OwnedFd) -> Result<()> {
        let command = "getfd";
        let mut line = json!({"execute": command, "arguments": {"fdname": name}}).to_string();
        line.push('\n');
        let stream: &UnixStream = self.writer.as_ref();
        let send = || {
            let fds = [fd.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            let data = [IoSlice::new(line.as_bytes())];
            let sent = rustix::net::sendmsg(stream, &data, &mut ancillary, SendFlags::empty())?;
            Ok(sent)
        };
        let sent = stream.async_io(Interest::WRITABLE, send).await;
        let sent = sent.map_err(|error| Error::new("handing a file over to QEMU").cause(error))?;
        // The descriptor goes with the first byte.
        let rest = self.writer.write_all(&line.as_bytes()[sent..]).await;
        rest.map_err(|error| Error::new("handing a file over to QEMU").cause(error))?;
        self.answer(command).await.map(drop)
    }

    async fn answer(&mut self, command: &str) -> Result<Value> {
        let doing = || Error::new(format!("asking QEMU to {command}"));
        loop {
            let message = self.receive().await?;
            if let Some(result) = message.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = message.get("error") {
                let text = error.get("desc").and_then(Value::as_str);
                return Err(doing().cause(text.unwrap_or("it refused without saying why")));
            }
            self.events.extend(event(&message));
        }
    }

    /// The next event; an error when QEMU closed the connection, which it does when it ends. May be dropped.
    pub async fn event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let message = self.receive().await?;
            self.events.extend(event(&message));
        }
    }

    /// The next event of this name; others stay for [`Qmp::event`].
    pub async fn event_called(&mut self, name: &str) -> Result<Event> {
        loop {
            if let Some(at) = self.events.iter().position(|event| event.name == name) {
                return self
                    .events
                    .remove(at)
                    .ok_or_else(|| Error::new("talking to QEMU"));
            }
            let message = self.receive().await?;
            self.events.extend(event(&message));
        }
    }

    /// Drops the events of this name that nobody has asked for.
    pub fn forget(&mut self, name: &str) {
        self.events.retain(|event| event.name != name);
    }

    async fn receive(&mut self) -> Result<Value> {
        let ended = || Error::new("talking to QEMU");
        match self.lines.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).map_err(|error| ended().cause(error)),
            Ok(None) => Err(ended().cause("it closed the connection")),
            Err(error) => Err(ended().cause(error)),
        }
    }
}

fn event(message: &Value) -> Option<Event> {
    Some(Event {
        name: message.get("event")?.as_str()?.to_owned(),
        data: message.get("data").cloned().unwrap_or_default(),
    })
}

/// The port on this machine that QEMU's user network forwards, from the answer to `info usernet`.
pub fn forwarded_port(answer: &str) -> Option<u16> {
    let line = answer
        .lines()
        .find(|line| line.trim_start().starts_with("TCP[HOST_FORWARD]"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_between_a_command_and_its_answer_are_not_lost() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script = "{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"STOP\"}\n{\"return\":{\"running\":false}}\n\
                      {\"error\":{\"class\":\"GenericError\",\"desc\":\"no such device\"}}\n";
        let mut theirs = theirs;
        theirs.write_all(script.as_bytes()).await.unwrap();
        let mut qmp = Qmp::open(ours).await.unwrap();
        let status = qmp.execute("query-status", json!({})).await.unwrap();
        assert_eq!(status, json!({"running": false}));
        let error = qmp.execute("device_del", json!({})).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "asking QEMU to device_del: no such device"
        );
        assert_eq!(qmp.event().await.unwrap().name, "STOP");
        let more = "{\"event\":\"A\"}\n{\"event\":\"B\"}\n{\"event\":\"C\"}\n";
        theirs.write_all(more.as_bytes()).await.unwrap();
        assert_eq!(qmp.event_called("C").await.unwrap().name, "C");
        qmp.forget("A");
        assert_eq!(qmp.event().await.unwrap().name, "B");
        drop(theirs);
        qmp.event().await.unwrap_err();
    }

    #[test]
    fn the_forwarded_port_is_found() {
        let answer = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                      TCP[HOST_FORWARD]   3       127.0.0.1 36657       10.0.2.15    22     0     0\r\n";
        assert_eq!(forwarded_port(answer), Some(36657));
        assert_eq!(forwarded_port("nothing"), None);
    }
}
