//! The WebSocket as pveproxy speaks it (PVE::APIServer::AnyEvent, `websocket_proxy`): whole frames, bytes for a port behind it.

use std::io::{Error, ErrorKind, Result};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::reply::Failure;

/// What RFC 6455 lets a server add to a client's key.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The largest frame, in bytes.
const LARGEST: u64 = 128 << 10;

/// Whether a call asks for one.
pub fn is_wanted(path: &str, headers: &HeaderMap) -> bool {
    path.ends_with("websocket") && headers.contains_key(UPGRADE)
}

/// The headers of the answer.
pub fn agreement(asked: &HeaderMap) -> std::result::Result<HeaderMap, Failure> {
    let header = |name| asked.get(name).and_then(|value| value.to_str().ok());
    let protocol = header(UPGRADE).unwrap_or_default();
    if !protocol.eq_ignore_ascii_case("websocket") {
        return Err(Failure::died(format!(
            "unable to upgrade to protocol '{protocol}'"
        )));
    }
    let version = header(SEC_WEBSOCKET_VERSION).unwrap_or_default();
    if version != "13" {
        return Err(Failure::died(format!(
            "unsupported websocket-version '{version}'"
        )));
    }
    let key = header(SEC_WEBSOCKET_KEY).ok_or_else(|| Failure::died("missing websocket-key"))?;
    let accept = STANDARD.encode(Sha1::digest(format!("{key}{MAGIC}")));
    let accept =
        HeaderValue::try_from(accept).map_err(|_| Failure::died("missing websocket-key"))?;
    Ok(HeaderMap::from_iter([
        (UPGRADE, HeaderValue::from_static("websocket")),
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ]))
}

type Stream = TokioIo<Upgraded>;

/// Both directions of a connection that was upgraded.
pub fn halves(upgraded: Upgraded) -> (Receiver<ReadHalf<Stream>>, Sender<WriteHalf<Stream>>) {
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    (Receiver(read), Sender(write))
}

/// What comes from the client.
pub struct Receiver<R>(R);

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// The next data. `None` when the client has enough.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let [first, second] = self.take().await?;
            if first & 0x80 == 0 {
                return Err(wrong("received fragmented websocket frame"));
            }
            if first & 0x70 != 0 {
                return Err(wrong("received websocket frame with RSV flags"));
            }
            if second & 0x80 == 0 {
                return Err(wrong("received unmasked websocket frame from client"));
            }
            let length = match second & 0x7f {
                126 => u16::from_be_bytes(self.take().await?).into(),
                127 => u64::from_be_bytes(self.take().await?),
                length => length.into(),
            };
            if length > LARGEST {
                return Err(wrong("received too large websocket frame"));
            }
            let mask: [u8; 4] = self.take().await?;
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await?;
            let masked = payload.iter_mut().zip(mask.into_iter().cycle());
            masked.for_each(|(byte, mask)| *byte ^= mask);
            match first & 0x0f {
                1 | 2 => return Ok(Some(payload)),
                8 => return Ok(None),
                9 | 10 => {}
                _ => return Err(wrong("received unhandled websocket opcode")),
            }
        }
    }

    async fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).await?;
        Ok(bytes)
    }
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// What goes to the client.
pub struct Sender<W>(W);

impl<W: AsyncWrite + Unpin> Sender<W> {
    /// Sends data, as a frame of its own.
    pub async fn send(&mut self, data: &[u8]) -> Result<()> {
        let mut frame = vec![0x82];
        match data.len() {
            length @ ..=125 => frame.push(length as u8),
            length @ ..=0xffff => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(data);
        self.0.write_all(&frame).await?;
        self.0.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(frames: &[u8]) -> Result<Option<Vec<u8>>> {
        Receiver(frames).next().await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn frames_are_unmasked_and_others_than_data_passed_over() {
        let masked = b"\x89\x80abcd\x82\x83\x01\x02\x03\x04\x4e\x49\x09";
        assert_eq!(heard(masked).await.unwrap().unwrap(), b"OK\n");
        assert_eq!(heard(b"\x88\x80abcd").await.unwrap(), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn frames_that_pveproxy_does_not_take_end_the_connection() {
        for frame in [
            &b"\x02\x81abcde"[..],
            b"\xc2\x81abcde",
            b"\x82\x01a",
            b"\x82\xff\x00\x00\x00\x00\x01\x00\x00\x00abcd",
            b"\x83\x81abcde",
        ] {
            let error = heard(frame).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn long_data_says_its_length_in_more_bytes() {
        for (length, head) in [(5, 2), (200, 4), (70_000, 10)] {
            let mut sender = Sender(vec![]);
            sender.send(&vec![b'x'; length]).await.unwrap();
            assert_eq!(sender.0.len(), head + length);
        }
    }
}
