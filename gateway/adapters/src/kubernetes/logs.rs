//! Reading the log of a workload over all its pods, also those that come while one reads.

use super::{
    Kubernetes, all_of,
    calls::{Cluster, DEPLOYMENT, POD},
    objects,
    reasons::{self, error},
};
use crate::{Error, LogOptions, Result, labels};
use basalt_model::{
    DateTime,
    deployments::{ErrorClass, LogLine, Owner},
};
use futures::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::sync::mpsc;

/// Longest line that is handed out, in bytes.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// Most bytes of one pod's log that are read at once.
const MAX_BYTES: &str = "16777216";
/// How often it is looked for new pods.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Lines that wait for the reader.
const WAITING_LINES: usize = 256;

/// Whose log.
#[derive(Clone)]
struct Target {
    cluster: Cluster,
    namespace: String,
    selector: String,
    container: String,
    many: bool,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Kubernetes {
    pub(super) async fn read_logs(
        &self,
        owner: &Owner,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let target = self.target(owner).await?;
        if options.follow {
            return target.follow(options).await;
        }
        Ok(stream::iter(target.read(options).await?.into_iter().map(Ok)).boxed())
    }

    async fn target(&self, owner: &Owner) -> Result<Target> {
        let selector = format!("{}={}", labels::DEPLOYMENT, owner.id.0);
        let each = self
            .namespaces
            .iter()
            .map(|namespace| self.cluster.list(DEPLOYMENT, namespace.as_str(), &selector, ""));
        let all: Vec<Vec<Value>> = all_of(each).await?;
        let epoch = |d: &Value| -> i64 {
            d["metadata"]["annotations"][labels::EPOCH].as_str().and_then(|e| e.parse().ok()).unwrap_or(0)
        };
        let newest = all.into_iter().flatten().max_by_key(epoch);
        let Some(deployment) = newest else {
            return Err(error(
                ErrorClass::Missing,
                "no_workload",
                format!("deployment/{}", owner.name),
                "nothing of it is in the cluster, so it has no log",
                "deploy it",
            ));
        };
        let wanted = deployment["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
        let selector: Vec<String> = wanted
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        let containers = &deployment["spec"]["template"]["spec"]["containers"];
        let mut named = containers.as_array().into_iter().flatten();
        let main = named.any(|c| c["name"] == objects::CONTAINER);
        let container = if main { objects::CONTAINER } else { text(containers, "/0/name") };
        Ok(Target {
            cluster: self.cluster.clone(),
            namespace: text(&deployment, "/metadata/namespace").to_owned(),
            selector: selector.join(","),
            container: container.to_owned(),
            many: deployment["spec"]["replicas"].as_u64().unwrap_or(1) > 1,
        })
    }
}

/// One pod's lines as they come.
type Lines = BoxStream<'static, (String, Result<LogLine>)>;

impl Target {
    async fn pods(&self) -> Result<BTreeSet<String>> {
        let pods = self.cluster.list(POD, &self.namespace, &self.selector, "").await?;
        Ok(pods.iter().map(|pod| text(pod, "/metadata/name").to_owned()).collect())
    }

    /// Opens one pod's log; none when it has none yet, or is gone.
    async fn open(
        &self,
        pod: &str,
        tail: Option<u32>,
        since: Option<DateTime>,
        follow: bool,
    ) -> Result<Option<Lines>> {
        let tail = tail.map(|tail| tail.to_string()).unwrap_or_default();
        let since_text = since.and_then(|s| serde_json::to_value(s).ok());
        let since_text = since_text.as_ref().and_then(Value::as_str).unwrap_or_default();
        let limit = if follow { "" } else { MAX_BYTES };
        let parameters = [
            ("container", self.container.as_str()),
            ("timestamps", "true"),
            ("tailLines", &tail),
            ("sinceTime", since_text),
            ("follow", if follow { "true" } else { "" }),
            ("limitBytes", limit),
        ];
        let body = match self.cluster.log(&self.namespace, pod, &parameters).await {
            Ok(body) => body,
            Err(error) if ["no_log_yet", "not_found"].iter().any(|code| reasons::is(&error, code)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (pod, instance) = (pod.to_owned(), if self.many { pod.to_owned() } else { String::new() });
        let server = self.cluster.server.clone();
        let lines = lines(body).filter_map(move |line| {
            let line = line.map(|line| parse(&line, &instance)).map_err(|()| broken_off(&server, &pod));
            // The cluster knows seconds only.
            let old =
                line.as_ref().is_ok_and(|l| since.is_some_and(|since| l.at.is_some_and(|at| at <= since)));
            let pod = pod.clone();
            async move { (!old).then_some((pod, line)) }
        });
        Ok(Some(lines.boxed()))
    }

    /// What is there: of all pods, in the order of time, the last so many.
    async fn read(&self, options: LogOptions) -> Result<Vec<LogLine>> {
        let pods = self.pods().await?;
        let each = pods.iter().map(|pod| async move {
            let Some(lines) = self.open(pod, options.tail, options.since, false).await? else {
                return Ok::<_, Error>(Vec::new());
            };
            lines.map(|(_, line)| line).try_collect::<Vec<LogLine>>().await
        });
        let all: Vec<Vec<LogLine>> = all_of(each).await?;
        let mut all: Vec<LogLine> = all.into_iter().flatten().collect();
        all.sort_by_key(|line| line.at);
        let most = options.tail.map_or(usize::MAX, |tail| usize::try_from(tail).unwrap_or(usize::MAX));
        Ok(all.split_off(all.len().saturating_sub(most)))
    }

    async fn follow(self, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        let pods = self.pods().await?;
        let (sender, receiver) = mpsc::channel(WAITING_LINES);
        let mut follower = Follower {
            target: self,
            open: BTreeSet::new(),
            last: BTreeMap::new(),
            lines: stream::SelectAll::new(),
        };
        follower.look(pods, options.tail, options.since).await?;
        let task = Task(tokio::spawn(follower.run(sender, options.since)));
        let lines = stream::unfold((receiver, task), |(mut receiver, task)| async {
            receiver.recv().await.map(|line| (line, (receiver, task)))
        });
        Ok(lines.boxed())
    }
}

/// Ends with whoever holds it.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Follower {
    target: Target,
    /// Pods whose log is being read.
    open: BTreeSet<String>,
    /// When the last line of each pod was printed, so that none is told twice.
    last: BTreeMap<String, Option<DateTime>>,
    lines: stream::SelectAll<BoxStream<'static, (String, Option<Result<LogLine>>)>>,
}

impl Follower {
    /// Opens the logs of pods that are not read yet. Those that come later are read from their beginning.
    async fn look(
        &mut self,
        pods: BTreeSet<String>,
        tail: Option<u32>,
        since: Option<DateTime>,
    ) -> Result<()> {
        for pod in pods {
            if self.open.contains(&pod) {
                continue;
            }
            let known = self.last.get(&pod).copied();
            let (tail, since) = match known {
                Some(last) => (None, last.or(since)),
                None => (tail, since),
            };
            if let Some(lines) = self.target.open(&pod, tail, since, true).await? {
                self.last.entry(pod.clone()).or_insert(None);
                self.open.insert(pod.clone());
                let end = stream::iter([(pod, None)]);
                self.lines.push(lines.map(|(pod, line)| (pod, Some(line))).chain(end).boxed());
            }
        }
        Ok(())
    }

    async fn run(mut self, sender: mpsc::Sender<Result<LogLine>>, since: Option<DateTime>) {
        let mut again = tokio::time::interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some((pod, line)) = self.lines.next() => match line {
                    Some(Ok(line)) => {
                        if let Some(last) = self.last.get_mut(&pod) {
                            *last = line.at.or(*last);
                        }
                        if sender.send(Ok(line)).await.is_err() {
                            return;
                        }
                    }
                    // Cut, or its container ended: it is opened again where it was, if it is still there.
                    Some(Err(_)) => {}
                    None => _ = self.open.remove(&pod),
                },
                _ = again.tick() => {
                    let looked = match self.target.pods().await {
                        Ok(pods) if pods.is_empty() && self.open.is_empty() && !self.last.is_empty() => return,
                        Ok(pods) => self.look(pods, None, since).await,
                        Err(error) => Err(error),
                    };
                    match looked {
                        Err(error) if matches!(error.class, ErrorClass::Auth | ErrorClass::Permanent) => {
                            _ = sender.send(Err(error)).await;
                            return;
                        }
                        // It comes back, or whoever reads goes away.
                        Ok(()) | Err(_) => {}
                    }
                }
                () = sender.closed() => return,
            }
        }
    }
}

fn broken_off(server: &str, pod: &str) -> Error {
    error(
        ErrorClass::Transient,
        "log_broken_off",
        format!("pod/{pod}"),
        format!("the cluster at {server} broke its log off"),
        "read it again",
    )
}

/// A line with the time before it.
fn parse(line: &[u8], instance: &str) -> LogLine {
    let line = String::from_utf8_lossy(line);
    let timed = line.split_once(' ').unwrap_or((&line, ""));
    let at: Option<DateTime> = serde_json::from_value(Value::from(timed.0)).ok();
    let mut text = if at.is_some() { timed.1.to_owned() } else { line.clone().into_owned() };
    if text.len() > MAX_LINE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_LINE_BYTES));
    }
    LogLine { at, instance: instance.to_owned(), line: text }
}

/// The lines of a body; what of a line is too long is left out.
fn lines(body: Body) -> impl Stream<Item = std::result::Result<Vec<u8>, ()>> + Send {
    struct Reading {
        body: BoxStream<'static, std::result::Result<Vec<u8>, ()>>,
        rest: Vec<u8>,
        ready: std::collections::VecDeque<Vec<u8>>,
        ended: bool,
    }
    let data = body.into_data_stream().map(|piece| piece.map(|p| p.to_vec()).map_err(|_| ()));
    let reading = Reading { body: data.boxed(), rest: Vec::new(), ready: Default::default(), ended: false };
    stream::unfold(reading, |mut reading| async move {
        loop {
            if let Some(line) = reading.ready.pop_front() {
                return Some((Ok(line), reading));
            }
            if reading.ended {
                return None;
            }
            match reading.body.next().await {
                Some(Ok(piece)) => {
                    for byte in piece {
                        if byte == b'\n' {
                            reading.ready.push_back(std::mem::take(&mut reading.rest));
                        } else if reading.rest.len() < MAX_LINE_BYTES + 64 {
                            reading.rest.push(byte);
                        }
                    }
                }
                Some(Err(())) => {
                    reading.ended = true;
                    return Some((Err(()), reading));
                }
                None => {
                    reading.ended = true;
                    if !reading.rest.is_empty() {
                        reading.ready.push_back(std::mem::take(&mut reading.rest));
                    }
                }
            }
        }
    })
}
