//! Packets that lie in a send queue numbered but not sealed: the cipher is fastest with many of one
//! session, so they are gathered until enough are there, or the queue is to be sent.

use std::sync::Arc;

use warren_core::wg::{GROUP, Message, Session};

/// Packets that are sealed together at most; the cipher gains nothing from more.
pub(crate) const AT_ONCE: usize = 64;

/// What is still to be sealed. All of it is of one session, and none comes in without it: nothing
/// can leave in plain text because the session was let go first.
#[derive(Default)]
pub(crate) struct Unsealed {
    session: Option<Arc<Session>>,
    begun: Vec<Message>,
}

impl Unsealed {
    /// Takes in a message of `session` that lies in `queued`; what was begun of another one is
    /// sealed first.
    pub(crate) fn add(&mut self, session: &Arc<Session>, message: Message, queued: &mut [u8]) {
        let same = self
            .session
            .as_ref()
            .is_some_and(|one| Arc::ptr_eq(one, session));
        if !same {
            self.seal(queued);
            self.session = Some(Arc::clone(session));
        }
        self.begun.push(message);
        if self.begun.len() >= AT_ONCE {
            self.seal(queued);
        }
    }

    /// Seals everything.
    pub(crate) fn seal(&mut self, queued: &mut [u8]) {
        self.seal_before(usize::MAX, queued);
    }

    /// Seals what lies before `end`, and what fills up the last group.
    pub(crate) fn seal_before(&mut self, end: usize, queued: &mut [u8]) {
        let count = self.begun.partition_point(|message| message.start < end);
        let count = count.next_multiple_of(GROUP).min(self.begun.len());
        if let Some(session) = &self.session {
            session.seal(queued, &self.begun[..count]);
            self.begun.drain(..count);
        }
    }

    /// Everything in the queue lies `bytes` nearer to its front now.
    pub(crate) fn moved(&mut self, bytes: usize) {
        for message in &mut self.begun {
            message.start -= bytes;
        }
    }

    /// Lets the session go, which nobody may hold for long; after [`Self::seal`].
    pub(crate) fn rest(&mut self) {
        if self.begun.is_empty() {
            self.session = None;
        }
    }
}
