//! The body of a call, as it comes in.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};

/// How long an answer waits for the end of a body that it does not need.
const LINGER: Duration = Duration::from_millis(100);

/// The connection is to be dropped without an answer.
#[derive(Debug)]
pub struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is dropped")
    }
}

impl std::error::Error for Dropped {}

/// A call's body, and how much of it was read.
pub struct Incomplete {
    pub body: Incoming,
    /// How long nothing may come.
    pub patience: Duration,
    /// How long nothing is read after each piece.
    pub pause: Duration,
    pub read: u64,
}

impl Incomplete {
    /// The next piece; none at the end. A client that sends nothing for too long is dropped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Dropped> {
        loop {
            let frame = tokio::time::timeout(self.patience, self.body.frame()).await;
            match frame.map_err(|_| Dropped)? {
                None => return Ok(None),
                Some(Err(_)) => return Err(Dropped),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read += data.len() as u64;
                        tokio::time::sleep(self.pause).await;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Takes what comes with what was read: the answer would be lost to a client that is still sending. What does not come is not
    /// waited for.
    pub async fn linger(&mut self) {
        self.patience = self.patience.min(LINGER);
        while let Ok(Some(_)) = self.next().await {}
    }

    /// All that is left.
    pub async fn all(&mut self) -> Result<Vec<u8>, Dropped> {
        let mut all = vec![];
        while let Some(data) = self.next().await? {
            all.extend_from_slice(&data);
        }
        Ok(all)
    }
}
