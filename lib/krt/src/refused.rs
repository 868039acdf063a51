//! What does not compile, on purpose. Each item is a documentation test; the first one compiles, so that the others fail for their own reason only.

/// ```
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, u32>("numbers");
/// let doubled = builder.derive("doubled", &numbers, move |ctx, key, n| ctx.exists(&numbers, key).then_some(n * 2));
/// let mut graph = builder.seal().unwrap();
/// let mut tx = graph.transaction();
/// tx.put(&numbers, 1, 1);
/// tx.commit();
/// ```
pub fn the_same_without_a_mistake() {}

/// ```compile_fail,E0277
/// #[derive(Debug)]
/// struct NoEquality;
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, NoEquality>("numbers");
/// ```
pub fn c177_a_value_without_equality() {}

/// ```compile_fail,E0277
/// #[derive(Debug, PartialEq, Clone)]
/// struct NoOrder;
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<NoOrder, u32>("numbers");
/// ```
pub fn c177_a_key_without_order() {}

/// ```compile_fail,E0425
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, u32>("numbers");
/// let first = builder.derive("first", &numbers, move |ctx, key, n| ctx.get(&second, key).map(|n| **n));
/// let second = builder.derive("second", &first, move |_, _, n| Some(*n));
/// ```
pub fn c137_a_cycle_needs_a_handle_that_does_not_exist_yet() {}

/// ```compile_fail,E0425
/// let mut builder = krt::Graph::builder();
/// let sum = builder.singleton("sum", move |ctx| Some(ctx.scan(&numbers).count()));
/// let numbers = builder.input::<u32, u32>("numbers");
/// ```
pub fn c177_a_handle_of_the_future() {}

/// ```compile_fail,E0425
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, u32>("numbers");
/// let own = builder.derive("own", &numbers, move |ctx, key, n| ctx.get(&own, key).map(|n| **n));
/// ```
pub fn c63_reading_a_sibling_key_of_the_own_collection() {}

/// ```compile_fail,E0599
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, u32>("numbers");
/// let doubled = builder.derive("doubled", &numbers, move |_, key, n| numbers.get(key).map(|n| n * 2));
/// ```
pub fn c72_reading_without_a_context() {}

/// ```compile_fail,E0308
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, u32>("numbers");
/// let doubled = builder.derive("doubled", &numbers, move |_, _, n| Some(n * 2));
/// let mut graph = builder.seal().unwrap();
/// let mut tx = graph.transaction();
/// tx.put(&doubled, 1, 1);
/// ```
pub fn c45_writing_a_derived_collection() {}

/// ```compile_fail
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, u32>("numbers");
/// let doubled = builder.derive("doubled", &numbers, move |_, _, n| async move { Some(*n) });
/// ```
pub fn c45_waiting_in_a_transform() {}

/// ```compile_fail
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, u32>("numbers");
/// let graph = builder.seal().unwrap();
/// builder.derive("late", &numbers, move |_, _, n| Some(n * 2));
/// ```
pub fn c177_declaring_after_the_seal() {}

/// ```compile_fail,E0596
/// let mut builder = krt::Graph::builder();
/// let numbers = builder.input::<u32, u32>("numbers");
/// let mut graph = builder.seal().unwrap();
/// let mut stream = graph.subscribe(&krt::Subscribe::all());
/// if let Some(krt::Event::Batch(batch)) = stream.try_next() {
///     let changes: &[krt::Change<u32, u32>] = batch.changes(&numbers);
///     changes[0].new.as_mut();
/// }
/// ```
pub fn c24_changing_a_batch() {}
