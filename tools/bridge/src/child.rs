//! One run of the command: messages in, messages out, line by line, and its end.

use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout, Command},
    sync::{Mutex, mpsc, watch},
    time::timeout,
};

/// Longest message in either direction.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Messages of the child that nobody took yet; then it has to wait.
const WAITING: usize = 64;
/// How long it may take to end by itself once its input has ended, and again once it was told to.
const GRACE: Duration = Duration::from_secs(2);

/// The runs that somebody waits for.
static OURS: std::sync::Mutex<BTreeSet<i32>> = std::sync::Mutex::new(BTreeSet::new());

fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A run of the command.
pub struct Child {
    pid: rustix::process::Pid,
    input: Mutex<Option<ChildStdin>>,
    ended: watch::Receiver<bool>,
    pub since: Instant,
}

impl Child {
    /// Starts the command in a process group of its own, so that what it starts ends with it.
    pub fn start(command: &[String]) -> Result<(Self, mpsc::Receiver<Value>)> {
        let mut process = Command::new(&command[0]);
        process.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut process = process.spawn().with_context(|| format!("starting {}", command[0]))?;
        let pid = process.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?));
        let pid = pid.context("it has no process id")?;
        locked(&OURS).insert(pid.as_raw_nonzero().get());
        let input = process.stdin.take();
        let output = process.stdout.take().context("it has no output")?;
        let (tell, messages) = mpsc::channel(WAITING);
        let (over, ended) = watch::channel(false);
        tokio::spawn(async move {
            let mut reading = std::pin::pin!(read(output, tell));
            tokio::select! {
                () = &mut reading => {
                    // Without its output it is of no use.
                    kill(pid, rustix::process::Signal::TERM);
                    if timeout(GRACE, process.wait()).await.is_err() {
                        kill(pid, rustix::process::Signal::KILL);
                        let _ = process.wait().await;
                    }
                }
                status = process.wait() => {
                    if let Ok(status) = status {
                        eprintln!("basalt-mcp-bridge: the server ended: {status}");
                    }
                    // What it started and left behind goes too; what it wrote last is still read.
                    kill(pid, rustix::process::Signal::KILL);
                    let _ = timeout(GRACE, reading).await;
                }
            }
            locked(&OURS).remove(&pid.as_raw_nonzero().get());
            over.send_replace(true);
        });
        Ok((Self { pid, input: Mutex::new(input), ended, since: Instant::now() }, messages))
    }

    pub fn is_alive(&self) -> bool {
        !*self.ended.borrow()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Writes one message.
    pub async fn write(&self, message: &Value) -> Result<()> {
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        let mut input = self.input.lock().await;
        let input = input.as_mut().context("its input has ended")?;
        input.write_all(&line).await?;
        Ok(input.flush().await?)
    }

    /// Ends it as the protocol says: its input ends, then it is told to, then it is made to.
    pub async fn end(&self) {
        drop(timeout(GRACE, async { self.input.lock().await.take() }).await);
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
            if timeout(GRACE, self.ended()).await.is_ok() {
                return;
            }
            kill(self.pid, signal);
        }
        let _ = timeout(GRACE, self.ended()).await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.is_alive() {
            kill(self.pid, rustix::process::Signal::KILL);
        }
    }
}

fn kill(group: rustix::process::Pid, signal: rustix::process::Signal) {
    // It may be gone already.
    let _ = rustix::process::kill_process_group(group, signal);
}

/// Takes in the ends of processes that nobody waits for: what a server started and left behind becomes a child of the
/// bridge, which is the first process of its container. Each would count as a process there until then.
pub fn reap_orphans() {
    let me = rustix::process::getpid();
    let Ok(all) = std::fs::read_dir("/proc") else { return };
    for process in all.flatten() {
        let pid =
            process.file_name().to_str().and_then(|name| rustix::process::Pid::from_raw(name.parse().ok()?));
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        if let Some(pid) = pid
            && is_ended_child(&stat, me.as_raw_nonzero().get())
            && !locked(&OURS).contains(&pid.as_raw_nonzero().get())
        {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        }
    }
}

/// From `/proc/PID/stat`: after the name, which may hold anything, its state and its parent.
fn is_ended_child(stat: &str, of: i32) -> bool {
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let mut words = rest.split(' ');
    words.next() == Some("Z") && words.next() == Some(&of.to_string())
}

/// Reads messages until the output ends. A line that is no message is somebody's printing, and goes to the log.
async fn read(output: ChildStdout, tell: mpsc::Sender<Value>) {
    let mut lines = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        let most = MAX_MESSAGE_BYTES as u64 + 1;
        match (&mut lines).take(most).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if line.len() > MAX_MESSAGE_BYTES => {
                eprintln!(
                    "basalt-mcp-bridge: the server wrote a line of more than {MAX_MESSAGE_BYTES} bytes"
                );
                return;
            }
            Ok(_) => {}
        }
        match serde_json::from_slice::<Value>(&line) {
            Ok(message) if message.is_object() => {
                if tell.send(message).await.is_err() {
                    return;
                }
            }
            _ => eprintln!("{}", String::from_utf8_lossy(&line).trim_end()),
        }
    }
}
