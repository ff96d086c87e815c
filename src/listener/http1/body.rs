//! The body of a client's request, read from the connection as it is asked for.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::link::Link;
use crate::proxy::Downstream;

/// A request's body; without a connection there is none.
#[derive(Debug)]
pub(super) struct ClientBody(Option<Source>);

#[derive(Debug)]
struct Source {
    /// Not held: a body may be lent to a task that outlives the connection.
    link: Weak<RefCell<Link>>,
    downstream: Rc<Downstream>,
    /// Which request of the connection it belongs to.
    number: u64,
}

impl ClientBody {
    /// No body.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The body of the request `number`.
    pub(super) fn of(link: &Rc<RefCell<Link>>, downstream: &Rc<Downstream>, number: u64) -> Self {
        Self(Some(Source { link: Rc::downgrade(link), downstream: Rc::clone(downstream), number }))
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &self.0 {
            Some(source) => match source.link.upgrade() {
                Some(link) => link.borrow_mut().poll_body(cx, source.number, &source.downstream),
                None => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            },
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_end = |source: &Source| source.link.upgrade().is_some_and(|link| link.borrow().is_end(source.number));
        self.0.as_ref().is_none_or(is_end)
    }
}
