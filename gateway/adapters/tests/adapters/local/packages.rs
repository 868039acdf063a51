//! Servers that speak by standard input and output, and packages in runner images, called by a real MCP client.

use super::bench::{IMAGE, LocalBench};
use crate::contract::{Bench, SECRET, gone, ready, workload};
use basalt_adapters::{Adapter, EngineOptions};
use basalt_model::{
    artifacts::{ArtifactKind, Source, Transport},
    deployments::{ErrorClass, Workload},
};
use basalt_test_programs::{Image, program};
use rmcp::{
    RoleClient, ServiceExt, model::CallToolRequestParams, service::RunningService,
    transport::StreamableHttpClientTransport,
};
use std::time::Duration;

type Client = RunningService<RoleClient, ()>;

async fn client(url: &str) -> Client {
    ().serve(StreamableHttpClientTransport::from_uri(url)).await.unwrap()
}

async fn call(client: &Client, tool: &'static str, text: &str) -> Result<String, rmcp::ServiceError> {
    let arguments = serde_json::json!({ "text": text }).as_object().cloned().unwrap();
    let said = client.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await?;
    let said = serde_json::to_value(said).unwrap();
    Ok(said["content"][0]["text"].as_str().unwrap().to_owned())
}

fn server(bench: &LocalBench, number: u128, source: Source) -> Workload {
    let mut wanted = workload(bench, number);
    wanted.target.kind = ArtifactKind::Server;
    wanted.program.source = source;
    wanted.program.transport = Transport::Stdio {};
    wanted.program.health = None;
    wanted
}

fn bridged(options: &mut EngineOptions) {
    options.bridge = Some(program("basalt-mcp-bridge").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_standard_input_and_output_is_reached_through_the_bridge() {
    let bench = LocalBench::start();
    let adapter = bench.with(bridged);
    let mut wanted = server(&bench, 90, Source::Image { image: IMAGE.into() });
    wanted.program.args = vec!["mcp-stdio".into()];
    adapter.deploy(&wanted).await.unwrap();
    let found = ready(&bench, &wanted.owner).await;
    assert_eq!(found.drift, Vec::<String>::new());
    let url = &found.endpoints[0].url;
    assert!(url.ends_with("/mcp"), "{url}");

    let (one, two) = (client(url).await, client(url).await);
    assert_eq!(one.list_all_tools().await.unwrap().len(), 5);
    assert_eq!(call(&one, "echo", "hello").await.unwrap(), "echo: hello");
    assert_eq!(call(&two, "env", "TOKEN").await.unwrap(), SECRET);
    let process = call(&one, "process", "").await.unwrap();
    assert_ne!(process, call(&two, "process", "").await.unwrap(), "a session has a server of its own");
    assert_eq!(process, call(&one, "process", "").await.unwrap());

    // A server that dies takes its session along, and no other.
    assert!(call(&one, "exit", "").await.is_err());
    assert_eq!(call(&two, "echo", "still here").await.unwrap(), "echo: still here");
    let again = client(url).await;
    assert_eq!(call(&again, "echo", "anew").await.unwrap(), "echo: anew");
    two.cancel().await.unwrap();
    again.cancel().await.unwrap();
    ready(&bench, &wanted.owner).await;

    // The engine would wait for 10 s before it kills what does not end when it is told to.
    let ending = tokio::time::timeout(Duration::from_secs(8), gone(&adapter, &wanted.owner, wanted.epoch));
    ending.await.expect("the bridge ends when it is told to, and its servers with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_run_in_the_runner_images_in_exactly_the_version_that_was_named() {
    let bench = LocalBench::start();
    let tool = program("basalt-test-program").unwrap();
    let runner =
        Image { files: vec![(&*tool, "/bin/npx"), (&*tool, "/bin/uvx")], changes: vec!["ENV PATH=/bin"] };
    bench.engine.lock().unwrap().image("localhost/runner:1", &runner).unwrap();
    let adapter = bench.with(|options| {
        bridged(options);
        options.npm_runner = Some("localhost/runner:1".into());
        options.pypi_runner = Some("localhost/runner:1".into());
    });
    assert!(adapter.capabilities().npm && adapter.capabilities().pypi && adapter.capabilities().stdio);
    let npm = Source::Npm { package: "@scope/tools".into(), version: "1.2.3".into() };
    let pypi = Source::Pypi { package: "tools".into(), version: "0.4".into() };
    for (number, source, command, words) in [
        (91, npm.clone(), vec![], "npx -y @scope/tools@1.2.3 --quiet"),
        (92, npm, vec!["serve"], "npx -y --package=@scope/tools@1.2.3 -- serve --quiet"),
        (93, pypi, vec![], "uvx --from tools==0.4 tools --quiet"),
    ] {
        let mut wanted = server(&bench, number, source);
        wanted.program.command = command.into_iter().map(str::to_owned).collect();
        wanted.program.args = vec!["--quiet".into()];
        adapter.deploy(&wanted).await.unwrap();
        let url = ready(&bench, &wanted.owner).await.endpoints[0].url.clone();
        let client = client(&url).await;
        assert_eq!(call(&client, "words", "").await.unwrap(), words);
        client.cancel().await.unwrap();
        gone(&adapter, &wanted.owner, wanted.epoch).await;
    }
}

#[tokio::test]
async fn what_the_engine_is_not_set_up_for_is_permanent_with_the_setting_that_is_missing() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let can = adapter.capabilities();
    assert!(!can.npm && !can.pypi && !can.stdio);
    let npm = Source::Npm { package: "tools".into(), version: "1.2.3".into() };
    let pypi = Source::Pypi { package: "tools".into(), version: "0.4".into() };
    let image = Source::Image { image: IMAGE.into() };
    for (source, setting) in [(npm, "`npm_runner`"), (pypi, "`pypi_runner`"), (image.clone(), "`bridge`")] {
        let error = adapter.deploy(&server(&bench, 94, source)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Permanent, "{error}");
        assert!(error.reason.remedy.contains(setting), "{error:?}");
    }
    let lost = bench.with(|options| options.bridge = Some("/nonexistent/bridge".into()));
    let error = lost.deploy(&server(&bench, 94, image)).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Missing, "bridge_missing"), "{error}");
}
