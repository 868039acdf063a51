//! The guide: how to build with this crate, from the first collection to the last "why".
//!
//! It has no code of its own. Each example runs as a test.
//!
//! # Collections
//!
//! A *collection* is a set of rows by key at one revision. An **input** is written by transactions, a **derived**
//! collection follows from others. Both read alike. Keys are ordered, so every list, event and dump is in key order;
//! values are compared, so that an equal value is no change. Values are held as `Arc<V>` and never copied: what a caller
//! puts in as an `Arc` is the very allocation that a reader gets.
//!
//! A graph is declared with a [`Builder`](crate::Builder), then sealed. Handles are small and `Copy`; a transform
//! captures the ones it reads. It can capture only those that exist already, so there are no cycles, and the order of
//! declaration is the order of computation.
//!
//! ```
//! use krt::Graph;
//!
//! let mut builder = Graph::builder();
//! let temperatures = builder.input::<&str, i32>("temperatures");
//! let warm = builder.filter("warm", &temperatures, |_, degrees| *degrees > 20);
//! let mut graph = builder.seal()?;
//!
//! let mut tx = graph.transaction();          // any number of inputs, one revision
//! tx.put(&temperatures, "hall", 19);
//! tx.put(&temperatures, "kitchen", 24);
//! let commit = tx.commit();                  // dropping it instead leaves no trace
//! assert_eq!((commit.revision, commit.changed, commit.runs), (1, 3, 2));
//!
//! let snapshot = graph.snapshot();           // immutable, cheap, outlives later commits
//! assert!(snapshot.rows(&warm).map(|(name, _)| *name).eq(["kitchen"]));
//! # Ok::<(), krt::Error>(())
//! ```
//!
//! Inputs that are filled from elsewhere begin as [`input_unsynced`](crate::Builder::input_unsynced) and are marked once
//! they hold their first complete state; everything derived from them is flagged until then, and the moment when the
//! whole graph is synced is one event at one revision. Time is an input like any other: a row that ticks.
//!
//! # Derivations
//!
//! | declare | a run per | gives |
//! |---|---|---|
//! | [`map`](crate::Builder::map), [`filter`](crate::Builder::filter) | row | the row changed, or as it is |
//! | [`derive`](crate::Builder::derive) | row | at most one row under the same key, from the row and what it reads |
//! | [`derive_many`](crate::Builder::derive_many) | row | any number of rows with keys of their own |
//! | [`singleton`](crate::Builder::singleton), [`generate`](crate::Builder::generate) | graph | one row, or many, from what is read |
//! | [`group`](crate::Builder::group) | index value | at most one row, from all members |
//! | [`reduce`](crate::Builder::reduce) | index value | at most one row, from an accumulator |
//! | [`join`](crate::Builder::join) | left row | the row and the one partner it names |
//! | [`equi_join`](crate::Builder::equi_join) | pair that shares an index value | at most one row |
//! | [`union`](crate::Builder::union), [`union_disjoint`](crate::Builder::union_disjoint) | key of any member | the first member's row, or an error where there are two |
//! | [`merge`](crate::Builder::merge), [`merge_by`](crate::Builder::merge_by) | key of any member | one row from all there are |
//! | [`previous`](crate::Builder::previous) | | another collection's rows of one revision ago |
//!
//! A transform is a pure function of its context. The engine runs it when something it read has changed, at most once a
//! revision, after everything it reads. An output that is equal to what it was stops there: whoever reads it does not run.
//! [`Builder::cutoff`](crate::Builder::cutoff) replaces equality; [`check_cutoffs`](crate::Builder::check_cutoffs) lets a
//! test find a cutoff that ignores what somebody reads.
//!
//! # Access paths
//!
//! A transform reads through its [`Ctx`](crate::Ctx), and how it reads decides when it runs again. Every read is recorded
//! with its *access path*; a change is looked up by path, with the row before and the row after it, and never walks the
//! readers of another path.
//!
//! ```
//! use krt::Graph;
//!
//! #[derive(Debug, PartialEq)]
//! struct Vm { host: u32, image: &'static str, name: &'static str }
//!
//! let mut builder = Graph::builder();
//! let vms = builder.input::<u32, Vm>("vms");
//! let hosts = builder.input::<u32, u64>("hosts");
//! let by_host = builder.index("vms_by_host", &vms, |_, vm| [vm.host]);
//! let free = builder.derive("free", &hosts, move |ctx, host, places| {
//!     let used = ctx.count(&by_host, host) as u64;   // membership only: renaming a VM runs nothing
//!     Some(places.saturating_sub(used))
//! });
//! let images = builder.derive("image_of_1", &hosts, move |ctx, _, _| {
//!     ctx.project(&vms, &1, |vm| vm.image)           // this part of this row only
//! });
//! let mut graph = builder.seal()?;
//! let mut tx = graph.transaction();
//! tx.put(&hosts, 7, 10);
//! tx.put(&vms, 1, Vm { host: 7, image: "debian", name: "a" });
//! tx.commit();
//!
//! let mut tx = graph.transaction();
//! tx.put(&vms, 1, Vm { host: 7, image: "debian", name: "b" });
//! assert_eq!(tx.commit().runs, 0);
//! # let _ = (free, images);
//! # Ok::<(), krt::Error>(())
//! ```
//!
//! From narrow to wide: [`exists`](crate::Ctx::exists), [`project`](crate::Ctx::project), [`get`](crate::Ctx::get),
//! [`count`](crate::Ctx::count), [`lookup`](crate::Ctx::lookup), [`labelled`](crate::Ctx::labelled) and
//! [`selecting`](crate::Ctx::selecting), and several of these at once with a [`Filter`](crate::Filter). All of them are
//! looked up. A [`scan`](crate::Ctx::scan) is the one read that is not, and the only thing that shows as a scan in an
//! explanation: a wide read is never hidden behind a narrow name.
//!
//! # Delta operators
//!
//! Where a group is large, a run that walks it for each changed member is too much. [`reduce`](crate::Builder::reduce)
//! keeps an accumulator and takes one member out and one in. [`equi_join`](crate::Builder::equi_join) reruns the pairs of
//! the changed row and no others.
//!
//! ```
//! use krt::Graph;
//!
//! let mut builder = Graph::builder();
//! let vms = builder.input::<u32, (u32, u64)>("vms");            // network, memory
//! let rules = builder.input::<u32, (u32, u16)>("rules");        // network, port
//! let vms_by_network = builder.index("vms_by_network", &vms, |_, vm| [vm.0]);
//! let rules_by_network = builder.index("rules_by_network", &rules, |_, rule| [rule.0]);
//! let memory = builder.reduce(
//!     "memory",
//!     &vms_by_network,
//!     |_network| 0,
//!     |sum, _, vm| *sum += vm.1,
//!     |sum, _, vm| *sum -= vm.1,
//!     |_network, sum| Some(*sum),
//! );
//! let open = builder.equi_join("open", &vms_by_network, &rules_by_network, |_vm, (_, rule)| Some(rule.1));
//! let mut graph = builder.seal()?;
//! let mut tx = graph.transaction();
//! (0..100).for_each(|vm| tx.put(&vms, vm, (vm % 2, 1)));
//! tx.put(&rules, 1, (0, 443));
//! tx.commit();
//! assert_eq!(graph.snapshot().get(&memory, &0).map(|sum| **sum), Some(50));
//! assert_eq!(graph.snapshot().len(&open), 50);
//! # Ok::<(), krt::Error>(())
//! ```
//!
//! A transform that must look back, at its own row or at a collection declared later, reads it through
//! [`previous`](crate::Builder::previous): as it was one revision ago. There is no other way, so a graph has no fixpoint
//! to wait for; what goes round takes a revision each time.
//!
//! # Errors
//!
//! A transform may return [`Failure::Err`](crate::Failure::Err) (its inputs are wrong) or
//! [`Failure::Keep`](crate::Failure::Keep) (they are not complete yet). A panic is an `Err` of that key. In all three
//! cases the key's last good rows stay, the reason is listed, what the failed run read counts, and nobody else notices.
//!
//! ```
//! use krt::{Failure, Graph};
//!
//! let mut builder = Graph::builder();
//! let texts = builder.input::<u32, &str>("texts");
//! let numbers = builder.derive("numbers", &texts, |_, _, text| {
//!     text.parse::<i64>().map(Some).map_err(Failure::err)
//! });
//! let mut graph = builder.seal()?;
//! for text in ["7", "seven"] {
//!     let mut tx = graph.transaction();
//!     tx.put(&texts, 1, text);
//!     tx.commit();
//! }
//! let snapshot = graph.snapshot();
//! assert_eq!(snapshot.get(&numbers, &1).map(|n| **n), Some(7));
//! let error = snapshot.error(&numbers, &1u32).unwrap();
//! assert_eq!((error.failure.reason(), error.since), ("invalid digit found in string", 2));
//! # Ok::<(), krt::Error>(())
//! ```
//!
//! # Streams and work
//!
//! There are two ways out. [`Graph::subscribe`](crate::Graph::subscribe) gives every revision's changes, whole and in
//! order, through a bounded buffer; a reader that is too slow is told so and given a snapshot to go on from, and never
//! holds up a commit. [`Work`](crate::Work) is for effects: one slot per key, the latest row only, with debounce,
//! back-off, caps and fairness. It is told the time and asked for the next job; who runs it, and on what, is the caller's.
//!
//! ```
//! use krt::{Finish, Graph, Subscribe, Work, WorkOptions};
//! use std::time::Duration;
//!
//! let mut builder = Graph::builder();
//! let wanted = builder.input::<u32, &str>("wanted");
//! let mut graph = builder.seal()?;
//! let mut changes = graph.subscribe(&Subscribe::only([wanted.id()]).with_initial());
//! let mut work = Work::new(&wanted, WorkOptions::default());
//! for state in ["off", "on"] {
//!     let mut tx = graph.transaction();
//!     tx.put(&wanted, 1, state);
//!     tx.commit();
//! }
//! let mut now = Duration::from_secs(1);
//! while let Some(event) = changes.try_next() {
//!     work.apply(&event, now);
//! }
//! let job = work.next(now).unwrap();
//! assert_eq!(*job.value, "on");                   // "off" was overtaken and is nobody's business
//! work.done(&job.key, Finish::Retry, now);        // it failed: again after the back-off
//! now = work.wake_at().unwrap();
//! assert_eq!(work.next(now).map(|job| job.attempt), Some(1));
//! # Ok::<(), krt::Error>(())
//! ```
//!
//! # Explaining a graph
//!
//! [`Graph::explain`](crate::Graph::explain) says of one row when it last changed, what its last run read, and which input
//! rows' changes caused that run. [`Graph::dump`](crate::Graph::dump) is the whole state as JSON,
//! [`Graph::dot`](crate::Graph::dot) and [`Graph::mermaid`](crate::Graph::mermaid) draw it,
//! [`Graph::counters`](crate::Graph::counters) and [`Graph::memory`](crate::Graph::memory) are for metrics.
//! [`Graph::verify`](crate::Graph::verify) computes everything again and reports each difference: call it after every
//! commit of a test. [`Graph::verify_some`](crate::Graph::verify_some) does so for a few keys at a time, which a running
//! system can afford; what it finds is a transform that is not pure, or a defect here.
//!
//! ```
//! use krt::Graph;
//!
//! let mut builder = Graph::builder();
//! let images = builder.input::<&str, &str>("images");
//! let vms = builder.input::<u32, &str>("vms");
//! let items = builder.derive("items", &vms, move |ctx, _, image| ctx.get(&images, image).map(|path| **path));
//! let upper = builder.map("upper", &items, |_, path| path.to_uppercase());
//! let mut graph = builder.seal()?;
//! let mut tx = graph.transaction();
//! tx.put(&vms, 1, "debian");
//! tx.commit();
//! let mut tx = graph.transaction();
//! tx.put(&images, "debian", "/srv/debian");
//! tx.commit();
//! let why = graph.explain(&upper, &1);
//! assert_eq!((why.changed_at, why.causes), (Some(2), vec!["images \"debian\"".to_owned()]));
//! assert_eq!(graph.explain(&items, &1).reads, ["images key \"debian\""]);
//! assert!(graph.verify().is_empty() && graph.verify_some(10, 0).is_empty());
//! # Ok::<(), krt::Error>(())
//! ```
