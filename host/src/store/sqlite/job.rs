//! Work for the writer, with the way back to whoever waits for it.

use super::session::Session;
use crate::store::{Committed, Error};
use tokio::sync::oneshot;

/// A job, whatever it returns.
///
/// Running and answering are apart, because the writer runs several jobs in one transaction and answers them only when
/// it is committed; and running can be repeated, because a transaction that is lost takes jobs with it that did nothing
/// wrong.
pub(super) trait Job: Send {
    /// Runs it and keeps the outcome; returns whether it succeeded.
    fn run(&mut self, session: &Session) -> bool;
    /// Replaces the outcome.
    fn fail(&mut self, error: Error);
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
    /// Sends the outcome. Where that is a success, what the job did is committed, or belongs to a transaction that is
    /// not at its end; only the former is followed by anything.
    fn answer(self: Box<Self>);
}

struct Work<A, F> {
    run: F,
    outcome: Option<Result<A, Error>>,
    reply: oneshot::Sender<Result<A, Error>>,
    then: Option<Committed>,
}

/// A job that does `run`, and where its answer will be.
pub(super) fn job<A, F>(run: F) -> (Box<dyn Job>, oneshot::Receiver<Result<A, Error>>)
where
    A: Send + 'static,
    F: FnMut(&Session) -> Result<A, Error> + Send + 'static,
{
    job_then(run, None)
}

/// As [`job`], with what is done once it is committed.
pub(super) fn job_then<A, F>(run: F, then: Option<Committed>) -> (Box<dyn Job>, oneshot::Receiver<Result<A, Error>>)
where
    A: Send + 'static,
    F: FnMut(&Session) -> Result<A, Error> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Box::new(Work { run, outcome: None, reply, then }), answer)
}

// === impl Work ===

impl<A, F> Job for Work<A, F>
where
    A: Send,
    F: FnMut(&Session) -> Result<A, Error> + Send,
{
    fn run(&mut self, session: &Session) -> bool {
        let outcome = (self.run)(session);
        let succeeded = outcome.is_ok();
        self.outcome = Some(outcome);
        succeeded
    }

    fn fail(&mut self, error: Error) {
        self.outcome = Some(Err(error));
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn answer(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            if let (Ok(_), Some(then)) = (&outcome, self.then) {
                then.run();
            }
            // Whoever asked may have gone meanwhile; what is committed stays so.
            let _ = self.reply.send(outcome);
        }
    }
}
