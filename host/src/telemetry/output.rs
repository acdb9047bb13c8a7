//! What guests write to their standard output and error: lines of the host's log.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio::{
    io::AsyncWrite,
    time::{Duration, Instant},
};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

/// A longer line is logged in pieces: a guest must not make the host keep what it writes.
const LONGEST_LINE: usize = 8 << 10;

/// How many lines a service may write at once,
const BURST: u32 = 1000;
/// and how many each second in the long run. Writing the log takes time and space that belong to all services.
const LINES_PER_SECOND: u32 = 200;

/// Of what a guest wrote to its standard error just before it trapped so many lines are told,
const LAST_LINES: usize = 8;
/// each of so many characters at most,
const LAST_LINE: usize = 300;
/// written within this time: what is older is about something else.
const LAST: Duration = Duration::from_secs(1);

/// The output of one service. Cloned, it shares what the service may write.
#[derive(Clone)]
pub struct GuestOutput {
    service: Arc<str>,
    allowance: Arc<Mutex<Allowance>>,
}

/// What an instance wrote to its standard error last: mostly why it panicked. Clones are the same.
#[derive(Clone, Default)]
pub struct LastWords(Arc<Mutex<VecDeque<(Instant, String)>>>);

/// The standard error of one instance.
struct StandardError {
    output: GuestOutput,
    words: LastWords,
}

struct Lines {
    output: GuestOutput,
    begun: Vec<u8>,
    words: Option<LastWords>,
}

/// A bucket of lines that fills up with time.
struct Allowance {
    lines: u32,
    filled: Instant,
    left_out: u64,
}

// === impl GuestOutput ===

impl GuestOutput {
    /// The output of an instance of `service`.
    pub fn new(service: Arc<str>) -> Self {
        let allowance = Allowance { lines: BURST, filled: Instant::now(), left_out: 0 };
        Self { service, allowance: Arc::new(Mutex::new(allowance)) }
    }

    /// The standard error of an instance, whose last lines are kept in `words`.
    pub fn standard_error(&self, words: LastWords) -> impl StdoutStream + use<> {
        StandardError { output: self.clone(), words }
    }

    fn log(&self, line: &str) {
        let taken = self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Some(left_out) = taken else { return };
        if left_out > 0 {
            tracing::warn!(
                target: "guest", service = %self.service, lines = left_out,
                "it wrote more than {LINES_PER_SECOND} lines per second; the others were left out"
            );
        }
        tracing::info!(target: "guest", service = %self.service, "{line}");
    }
}

// === impl Allowance ===

impl Allowance {
    /// Takes a line, if there is one: then it tells how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let gained = now.duration_since(self.filled).as_millis() * u128::from(LINES_PER_SECOND) / 1000;
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(BURST);
            self.lines = self.lines.saturating_add(gained).min(BURST);
            self.filled = now;
        }
        let Some(left) = self.lines.checked_sub(1) else {
            self.left_out += 1;
            return None;
        };
        self.lines = left;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines { output: self.clone(), begun: Vec::new(), words: None })
    }
}

impl IsTerminal for StandardError {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for StandardError {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines { output: self.output.clone(), begun: Vec::new(), words: Some(self.words.clone()) })
    }
}

// === impl LastWords ===

impl LastWords {
    /// What was written just now, a line each; `None` where nothing was.
    pub fn said(&self) -> Option<String> {
        let now = Instant::now();
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = lines.iter().filter(|(at, _)| now.duration_since(*at) <= LAST).map(|(_, line)| line.as_str());
        let lines = lines.collect::<Vec<_>>();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn add(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back((Instant::now(), line.chars().take(LAST_LINE).collect()));
    }
}

// === impl Lines ===

impl Lines {
    fn log(&mut self) {
        let line = String::from_utf8_lossy(&self.begun);
        let line = line.trim_end();
        if !line.is_empty() {
            self.output.log(line);
            if let Some(words) = &self.words {
                words.add(line);
            }
        }
        self.begun.clear();
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in piece.chunks(LONGEST_LINE) {
                if self.begun.len() + piece.len() > LONGEST_LINE {
                    self.log();
                }
                self.begun.extend_from_slice(piece);
            }
            if self.begun.ends_with(b"\n") {
                self.log();
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.log();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.log();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncWriteExt, time::advance};

    #[tokio::test(start_paused = true)]
    async fn the_last_words_are_few_and_of_this_moment() {
        let (output, words) = (GuestOutput::new("user".into()), LastWords::default());
        assert_eq!(words.said(), None);
        let mut stream = Box::into_pin(output.standard_error(words.clone()).async_stream());
        stream.write_all(b"long ago\n").await.unwrap();
        advance(2 * LAST).await;
        assert_eq!(words.said(), None);
        stream.write_all(b"\nthread 'x' pani").await.unwrap();
        stream.write_all(b"cked:\nno room\n").await.unwrap();
        assert_eq!(words.said().as_deref(), Some("thread 'x' panicked:\nno room"));
        let mut out = Box::into_pin(output.async_stream());
        out.write_all(b"by the way\n").await.unwrap();
        for _ in 0..100 {
            stream.write_all(&[b'a'; 2 * LAST_LINE]).await.unwrap();
            stream.write_all(b"\n").await.unwrap();
        }
        assert_eq!(words.said().map(|said| said.len()), Some(LAST_LINES * (LAST_LINE + 1) - 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_and_its_size_told() {
        let mut allowance = Allowance { lines: BURST, filled: Instant::now(), left_out: 0 };
        let mut write = |lines| (0..lines).filter_map(|_| allowance.take(Instant::now())).collect::<Vec<_>>();
        assert_eq!(write(5000), vec![0; BURST as usize]);
        advance(Duration::from_millis(10)).await;
        assert_eq!(write(100), [4000, 0], "two lines in ten milliseconds");
        advance(Duration::from_secs(3600)).await;
        assert_eq!(write(5000).len(), BURST as usize, "what was not used does not pile up");
    }

    #[tokio::test(start_paused = true)]
    async fn steady_writing_gains_what_it_is_owed() {
        let mut allowance = Allowance { lines: 0, filled: Instant::now(), left_out: 0 };
        let mut written = 0;
        for _ in 0..1000 {
            advance(Duration::from_millis(3)).await;
            written += u32::from(allowance.take(Instant::now()).is_some());
        }
        assert!((500..=600).contains(&written), "{written} of 600 in three seconds");
    }
}
