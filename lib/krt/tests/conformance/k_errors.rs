//! K: errors.

use krt::{Collection, Failure, Graph, Input, Subscribe};

use crate::{batch, put, rows, sound};

#[test]
fn c140_keep_holds_the_last_good_row() {
    let mut builder = Graph::builder();
    let texts = builder.input::<u32, &str>("texts");
    let numbers = builder.derive("numbers", &texts, |_, _, text| match *text {
        "wait" => Err(Failure::keep("not yet")),
        text => text.parse::<u32>().map(Some).map_err(Failure::err),
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &texts, 1, "wait");
    assert_eq!(rows(&graph, &numbers), []);
    put(&mut graph, &texts, 1, "7");
    put(&mut graph, &texts, 1, "wait");
    assert_eq!(rows(&graph, &numbers), [(1, 7)]);
    assert_eq!(graph.snapshot().error(&numbers, &1u32).unwrap().failure, Failure::Keep("not yet".to_owned()));
    sound(&graph);
}

/// Texts and the numbers they spell.
fn spelled() -> (Graph, Input<u32, &'static str>, Collection<u32, u32>) {
    let mut builder = Graph::builder();
    let texts = builder.input::<u32, &str>("texts");
    let numbers = builder.derive("numbers", &texts, |_, _, text: &&str| {
        let number = text.trim().parse::<u32>().map_err(|_| Failure::err("no number"))?;
        Ok::<_, Failure>(Some(number))
    });
    (builder.seal().unwrap(), texts, numbers)
}

#[test]
fn c141_an_error_is_visible_and_told_when_it_changes_only() {
    let (mut graph, texts, numbers) = spelled();
    put(&mut graph, &texts, 1, "7");
    let mut changes = graph.subscribe(&Subscribe::only([numbers.id()]));
    put(&mut graph, &texts, 1, "x");
    let told = batch(&mut changes);
    assert!(told.changes(&numbers).is_empty());
    let [(key, Some(error))] = told.error_changes(&numbers) else { panic!("not told") };
    assert_eq!((key.as_str(), error.failure.reason(), error.since), ("1", "no number", 2));
    put(&mut graph, &texts, 1, "y");
    assert!(changes.try_next().is_none(), "the same error is no news");
    assert_eq!(graph.snapshot().error(&numbers, &1u32).unwrap().since, 2);
    assert_eq!(rows(&graph, &numbers), [(1, 7)], "the last good row stays");
    put(&mut graph, &texts, 2, "z");
    let snapshot = graph.snapshot();
    let errors: Vec<String> = snapshot.errors(&numbers).iter().map(|error| error.key.clone()).collect();
    assert_eq!((errors, snapshot.get(&numbers, &2)), (vec!["1".to_owned(), "2".to_owned()], None));
    sound(&graph);
}

#[test]
fn c143_a_good_run_clears_the_error() {
    let (mut graph, texts, numbers) = spelled();
    put(&mut graph, &texts, 1, "7");
    put(&mut graph, &texts, 1, "x");
    let mut changes = graph.subscribe(&Subscribe::only([numbers.id()]));
    put(&mut graph, &texts, 1, " 7");
    let told = batch(&mut changes);
    assert!(matches!(told.error_changes(&numbers), [(_, None)]), "told, although the row is the same");
    assert!(told.changes(&numbers).is_empty());
    assert!(
        graph.snapshot().error(&numbers, &1u32).is_none() && graph.snapshot().errors(&numbers).is_empty()
    );
    sound(&graph);
}

#[test]
fn an_error_leaves_with_its_source_row() {
    let mut builder = Graph::builder();
    let texts = builder.input::<u32, &str>("texts");
    let numbers = builder.derive("numbers", &texts, |_, _, _| Err::<Option<u32>, _>(Failure::err("never")));
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &texts, 1, "x");
    crate::delete(&mut graph, &texts, &1);
    assert!(graph.snapshot().errors(&numbers).is_empty());
    sound(&graph);
}

#[test]
fn c142_a_panic_is_that_keys_error_only() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let inverse = builder.derive("inverse", &numbers, |_, _, n| Some(100 / n));
    let after = builder.map("after", &inverse, |_, n| *n);
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    tx.put(&numbers, 1, 10);
    tx.put(&numbers, 2, 0);
    tx.put(&numbers, 3, 20);
    tx.commit();
    assert_eq!(rows(&graph, &after), [(1, 10), (3, 5)]);
    let error = graph.snapshot().error(&inverse, &2u32).unwrap();
    assert!(error.panicked && error.failure.reason().contains("divide by zero"), "{error:?}");
    put(&mut graph, &numbers, 2, 5);
    assert_eq!(rows(&graph, &after), [(1, 10), (2, 20), (3, 5)]);
    assert!(graph.snapshot().errors(&inverse).is_empty());
    sound(&graph);
}

#[test]
fn c144_an_extractors_or_merges_error_is_its_keys() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let by_inverse = builder.index("by_inverse", &numbers, |_, n| [100 / n]);
    let counts = builder.group("counts", &by_inverse, |_, _, members| Some(members.len()));
    let merged = builder.merge("merged", &[*numbers], |_, rows| match **rows[0] {
        0 => Err(Failure::err("zero")),
        n => Ok(n),
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 10);
    put(&mut graph, &numbers, 2, 0);
    let snapshot = graph.snapshot();
    let keys = |errors: Vec<std::sync::Arc<krt::KeyError>>| {
        errors.iter().map(|error| error.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (keys(snapshot.errors(&numbers)), keys(snapshot.errors(&merged))),
        (vec!["2".to_owned()], vec!["2".to_owned()])
    );
    assert_eq!((rows(&graph, &counts), rows(&graph, &merged)), (vec![(10, 1)], vec![(1, 10)]));
    sound(&graph);
    put(&mut graph, &numbers, 2, 10);
    assert_eq!(rows(&graph, &counts), [(10, 2)]);
    assert!(graph.snapshot().errors(&numbers).is_empty());
    sound(&graph);
}

#[test]
fn c177_a_handle_of_another_graph_is_refused() {
    let mut other = Graph::builder();
    let foreign = other.input::<u32, u32>("foreign");
    let mut builder = Graph::builder();
    builder.map("map", &foreign, |_, n| *n);
    assert_eq!(builder.seal().err(), Some(krt::Error::ForeignHandle("map".to_owned())));

    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let reading = builder.derive("reading", &numbers, move |ctx, key, _| Some(ctx.exists(&foreign, key)));
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 1);
    let error = graph.snapshot().error(&reading, &1u32).unwrap();
    assert_eq!(error.failure.reason(), "a transform read a collection of another graph");
}
