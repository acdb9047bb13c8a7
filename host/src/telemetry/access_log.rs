//! The access log: one line for every request that the gateway answered.
//!
//! A line must cost well under a microsecond, or the log becomes the most expensive part of a small request. So nothing
//! is written where the request ends: the line is formatted into a buffer of the thread, appended to a shared buffer
//! under a short lock, and a thread of its own writes that buffer out, at most every 100 ms or 64 KiB. The shared
//! buffer is bounded. When the sink can't follow, lines are dropped, counted, and the count is written as soon as there
//! is room again: a slow disk costs log lines and never requests.

mod line;

use line::LINE;
use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// How long a line may wait before it is written.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// How much may gather before it is written at once.
const WRITE_AT: usize = 64 * 1024;
/// How much may gather while the sink does not take it; what comes then is dropped and counted.
const BUFFER: usize = 1024 * 1024;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessFormat {
    /// `key=value` pairs: quick to read and to grep.
    #[default]
    Logfmt,
    /// One JSON object: for collectors.
    Json,
}

/// What one line says.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The request's path as it was sent, without the query, which may carry secrets.
    pub path: &'a str,
    /// The status that was sent; 499 when the client left before there was one.
    pub status: u16,
    /// Bytes of the body handed to the connection.
    pub bytes: u64,
    /// From the request's head to the last piece of the answer.
    pub duration: Duration,
    /// The pattern of the route that matched.
    pub route: Option<&'a str>,
    /// The service that was asked.
    pub service: Option<&'a str>,
    /// The trace that the request belongs to.
    pub trace_id: u128,
    /// The kind of the fault that the answer reports.
    pub fault: Option<&'a str>,
    /// Whether the route's rate limit refused it.
    pub limited: bool,
    /// Whether the answer ended before its end: the client left, or the service's body failed.
    pub aborted: bool,
}

/// A handle to the log; clones write to the same one. Dropping the last one writes out what is left.
#[derive(Clone)]
pub struct AccessLog(Arc<Owner>);

struct Owner {
    format: AccessFormat,
    shared: Arc<Shared>,
    writer: Option<thread::JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Told when there is something to do for the writer.
    work: Condvar,
    /// Told when the writer has emptied what it took.
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    dropped: u64,
    writing: bool,
    urgent: bool,
    closed: bool,
}

// === impl AccessLog ===

impl AccessLog {
    /// A log that writes to `sink` from a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(format: AccessFormat, sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let of_writer = shared.clone();
        let writer =
            thread::Builder::new().name("access-log".into()).spawn(move || of_writer.write_out(format, sink))?;
        Ok(Self(Arc::new(Owner { format, shared, writer: Some(writer) })))
    }

    /// Notes one request. Never waits for the sink.
    pub fn record(&self, record: &AccessRecord<'_>) {
        LINE.with_borrow_mut(|line| {
            line.format(self.0.format, record);
            self.0.shared.append(&line.text);
        });
    }

    /// How many lines were dropped since the start because the sink could not follow.
    pub fn dropped(&self) -> u64 {
        self.0.shared.dropped.load(Relaxed)
    }

    /// Waits until everything recorded so far has been handed to the sink. Blocks: not for async code.
    pub fn flush(&self) {
        let mut state = self.0.shared.lock();
        while state.writing || !state.pending.is_empty() {
            state.urgent = true;
            self.0.shared.work.notify_one();
            state = self.0.shared.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take() {
            // The writer has no reason to panic; if it did, its own message was printed.
            let _ = writer.join();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.pending.len() + line.len() > BUFFER {
            state.dropped += 1;
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let before = state.pending.len();
        state.pending.extend_from_slice(line);
        // The writer is woken by the first line of a batch and by the one that fills it; the others only copy.
        let wake = before == 0 || (before < WRITE_AT && state.pending.len() >= WRITE_AT);
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    fn write_out(&self, format: AccessFormat, mut sink: impl Write) {
        let mut batch = Vec::with_capacity(WRITE_AT);
        let mut failing = false;
        let mut state = self.lock();
        loop {
            while state.pending.is_empty() && !state.closed {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let ready = |state: &mut State| state.pending.len() < WRITE_AT && !state.closed && !state.urgent;
            (state, _) =
                self.work.wait_timeout_while(state, WRITE_EVERY, ready).unwrap_or_else(PoisonError::into_inner);
            if state.pending.is_empty() && state.closed {
                return;
            }
            std::mem::swap(&mut state.pending, &mut batch);
            let dropped = std::mem::take(&mut state.dropped);
            (state.writing, state.urgent) = (true, false);
            drop(state);

            if dropped > 0 {
                let _ = match format {
                    AccessFormat::Logfmt => {
                        writeln!(batch, "level=warn message=\"access log lines dropped\" dropped={dropped}")
                    }
                    AccessFormat::Json => {
                        writeln!(
                            batch,
                            r#"{{"level":"warn","message":"access log lines dropped","dropped":{dropped}}}"#
                        )
                    }
                };
            }
            match sink.write_all(&batch).and_then(|()| sink.flush()) {
                Ok(()) => failing = false,
                Err(error) => {
                    let lost = batch.iter().filter(|&&byte| byte == b'\n').count() as u64;
                    self.dropped.fetch_add(lost, Relaxed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the access log cannot be written; its lines are lost until it can");
                    }
                }
            }
            batch.clear();
            state = self.lock();
            state.writing = false;
            self.written.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A sink whose content can be read while the log holds it.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record(path: &str) -> AccessRecord<'_> {
        AccessRecord {
            method: "GET",
            path,
            status: 200,
            bytes: 17,
            duration: Duration::from_micros(85),
            route: Some("/api/users/{*rest}"),
            service: Some("user"),
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            fault: None,
            limited: false,
            aborted: false,
        }
    }

    #[test]
    fn a_line_says_what_happened() {
        let paper = Paper::default();
        let log = AccessLog::new(AccessFormat::Logfmt, paper.clone()).unwrap();
        log.record(&AccessRecord { fault: Some("trapped"), limited: true, aborted: true, ..record("/api/users/1") });
        log.flush();
        let text = paper.text();
        let (time, rest) = text.split_once(' ').unwrap();
        let stamp: jiff::Timestamp = time.strip_prefix("time=").unwrap().parse().unwrap();
        assert!(stamp <= jiff::Timestamp::now());
        assert_eq!(
            rest,
            "method=GET path=/api/users/1 status=200 bytes=17 duration_us=85 route=/api/users/{*rest} service=user \
             trace=4bf92f3577b34da6a3ce929d0e0e4736 fault=trapped limited=true aborted=true\n"
        );
    }

    #[test]
    fn dropping_the_log_writes_out_what_is_left() {
        let paper = Paper::default();
        let log = AccessLog::new(AccessFormat::Logfmt, paper.clone()).unwrap();
        for _ in 0..1000 {
            log.record(&record("/"));
        }
        drop(log);
        assert_eq!(paper.text().lines().count(), 1000);
    }

    #[test]
    fn a_sink_that_does_not_follow_costs_lines_and_says_how_many() {
        /// Takes nothing until it is let go.
        struct Stuck(mpsc::Receiver<()>, Paper);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                self.1.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (go, gate) = mpsc::channel();
        let paper = Paper::default();
        let log = AccessLog::new(AccessFormat::Json, Stuck(gate, paper.clone())).unwrap();
        let mut recorded = 0;
        while log.dropped() < 10 {
            log.record(&record("/"));
            recorded += 1;
            assert!(recorded < 100_000, "the buffer must be bounded");
        }
        drop(go);
        drop(log);
        let text = paper.text();
        let kept = text.lines().filter(|line| line.contains("trace")).count();
        assert_eq!(kept + 10, recorded);
        assert!(text.ends_with("\"dropped\":10}\n"), "{}", text.lines().last().unwrap());
    }
}
