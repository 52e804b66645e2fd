//! The body of an answer, which may be cut off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

/// An answer's body.
pub struct Content {
    length: u64,
    rest: Option<Bytes>,
    cut: Cut,
}

enum Cut {
    No,
    /// After what is in `rest`.
    Later,
    /// The connection has to send what it has before it hears of the end.
    Now,
}

impl Content {
    /// With `cut`, the connection ends after half of it.
    pub fn new(bytes: Vec<u8>, cut: bool) -> Self {
        let length = bytes.len() as u64;
        let mut rest = Bytes::from(bytes);
        if cut {
            rest.truncate(rest.len() / 2);
        }
        Content {
            length,
            rest: (!rest.is_empty()).then_some(rest),
            cut: if cut { Cut::Later } else { Cut::No },
        }
    }

    /// Bytes, all of them.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        match self.cut {
            Cut::No => Poll::Ready(None),
            Cut::Later => {
                self.cut = Cut::Now;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Cut::Now => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && matches!(self.cut, Cut::No)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
