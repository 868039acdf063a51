//! Pods and services, as a service mesh would watch them: which endpoints does each service have, and why.
//!
//! `cargo run -p krt --example services`
#![allow(clippy::disallowed_macros, clippy::print_stdout, reason = "an example talks")]

use krt::{Event, Failure, Finish, Graph, Labels, Subscribe, Work, WorkOptions};
use std::time::Duration;

#[derive(Debug, PartialEq)]
struct Pod {
    labels: Labels,
    address: Option<&'static str>,
}

fn labels(app: &str) -> Labels {
    Labels::from([("app".to_owned(), app.to_owned())])
}

fn main() -> Result<(), krt::Error> {
    let mut builder = Graph::builder();
    let pods = builder.input::<&str, Pod>("pods");
    let services = builder.input::<&str, Labels>("services");
    let ready = builder.filter("ready", &pods, |_, pod| pod.address.is_some());
    let by_label = builder.labels("ready_by_label", &ready, |_, pod| ((), pod.labels.clone()));
    let endpoints = builder.derive("endpoints", &services, move |ctx, name, selector| {
        if selector.is_empty() {
            return Err(Failure::err(format!("service {name} selects everything")));
        }
        let pods = ctx.labelled(&by_label, &(), selector);
        Ok(Some(pods.into_iter().filter_map(|(_, pod)| pod.address).collect::<Vec<_>>()))
    });
    let mut graph = builder.seal()?;

    // Effects: one job per service whose endpoints changed, the latest row only.
    let mut changes = graph.subscribe(&Subscribe::only([endpoints.id()]).with_initial());
    let mut work = Work::new(&endpoints, WorkOptions::default());
    let mut publish = |graph: &Graph, now: Duration| {
        while let Some(event) = changes.try_next() {
            if let Event::Batch(batch) = &event {
                println!("revision {}: {:?}", batch.revision(), batch.changes(&endpoints));
            }
            work.apply(&event, now);
        }
        while let Some(job) = work.next(now) {
            println!(
                "  publish {} -> {:?}, because of {:?}",
                job.key,
                job.value,
                graph.explain(&endpoints, &job.key).causes
            );
            work.done(&job.key, Finish::Done, now);
        }
    };

    let mut tx = graph.transaction();
    tx.put(&services, "web", labels("web"));
    tx.put(&services, "broken", Labels::new());
    tx.put(&pods, "web-1", Pod { labels: labels("web"), address: Some("10.0.0.1") });
    tx.put(&pods, "web-2", Pod { labels: labels("web"), address: None });
    tx.put(&pods, "db-1", Pod { labels: labels("db"), address: Some("10.0.0.9") });
    tx.commit();
    publish(&graph, Duration::from_secs(1));

    let mut tx = graph.transaction();
    tx.put(&pods, "web-2", Pod { labels: labels("web"), address: Some("10.0.0.2") });
    tx.commit();
    publish(&graph, Duration::from_secs(2));

    // Nothing selects it: no run, no event, no job.
    let mut tx = graph.transaction();
    tx.delete(&pods, &"db-1");
    println!("deleting db-1: {:?}", tx.commit());
    publish(&graph, Duration::from_secs(3));

    for error in graph.snapshot().errors(&endpoints) {
        println!("in error: {} {}", error.key, error.failure);
    }
    println!("the oracle finds {} differences", graph.verify().len());
    println!("{}", graph.dot());
    Ok(())
}
