//! What a workload is in Kubernetes: a Deployment, a Service and a Secret, field by field. Pure.
//!
//! Only what is said here belongs to Basalt; what the cluster fills in, and what others add, is theirs. Amounts are
//! written as the cluster writes them, so that what was applied can be compared with what is there.

use super::{Options, drift, reasons::error};
use crate::{Error, Result, labels};
use basalt_model::{
    artifacts::{ArtifactKind, Source, Transport},
    deployments::{ErrorClass, Resources, Workload},
};
use base64::Engine as _;
use serde_json::{Map, Value, json};

/// The one container that is the workload.
pub(super) const CONTAINER: &str = "main";
/// Annotation: the path of the endpoint.
pub(super) const PATH: &str = "basalt/path";
/// Annotation: what was applied, leaf by leaf.
pub(super) const APPLIED: &str = "basalt/applied";
/// Annotation: the attempt that wrote the secrets last; in pods too, so that they begin anew with new secrets.
pub(super) const SECRETS: &str = "basalt/secrets";

/// Where the bridge is put in a pod, and where it stands in its image.
const BRIDGE: &str = "basalt-mcp-bridge";
const BRIDGE_FOLDER: &str = "/basalt";
/// What the bridge listens on and answers at.
const BRIDGE_PORT: u16 = 8080;

/// What is to stand in the cluster.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub secret: Option<Value>,
    pub deployment: Value,
    pub service: Value,
}

/// The words and settings of the one container.
struct Program {
    image: String,
    command: Vec<String>,
    args: Vec<String>,
    port: u16,
    path: String,
    bridge: Option<String>,
}

fn permanent(workload: &Workload, code: &'static str, message: String, remedy: &str) -> Error {
    error(ErrorClass::Permanent, code, workload.target.to_string(), message, remedy)
}

/// The data of the Secret, in base64; none when there is nothing secret.
pub(super) fn secret_data(workload: &Workload) -> Option<Value> {
    let encode = |text: &str| Value::from(base64::engine::general_purpose::STANDARD.encode(text));
    let data: Map<String, Value> =
        workload.secret_env.iter().map(|(name, value)| (name.clone(), encode(value.expose()))).collect();
    (!data.is_empty()).then_some(Value::Object(data))
}

/// What a workload comes to in a namespace, with secrets of a version.
pub(super) fn wanted(
    workload: &Workload,
    options: &Options,
    namespace: &str,
    secrets: &str,
) -> Result<Wanted> {
    let program = program(workload, options)?;
    let deployment = deployment(workload, &program, namespace, secrets);
    let service = service(workload, &program, namespace);
    let secret = secret_data(workload).map(|data| {
        let mut secret = json!({ "type": "Opaque", "data": data });
        head(&mut secret, workload, namespace, "v1", "Secret");
        secret["metadata"]["annotations"][SECRETS] = secrets.into();
        secret
    });
    Ok(Wanted { secret, deployment, service })
}

/// The labels of everything that is made.
fn own_labels(workload: &Workload) -> Value {
    let owner = &workload.owner;
    json!({
        "app.kubernetes.io/managed-by": "basalt", "app.kubernetes.io/name": owner.name.as_str(),
        labels::DEPLOYMENT: owner.id.0.to_string(), labels::PROJECT: owner.project.as_str(),
        labels::NAME: owner.name.as_str(), labels::KIND: workload.target.kind.as_str(),
    })
}

fn head(object: &mut Value, workload: &Workload, namespace: &str, api_version: &str, kind: &str) {
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    object["metadata"] = json!({
        "name": workload.owner.workload_name(), "namespace": namespace, "labels": own_labels(workload),
        "annotations": {
            labels::FINGERPRINT: workload.fingerprint, labels::GENERATION: workload.generation.0.to_string(),
            labels::EPOCH: workload.epoch.0.to_string(),
        },
    });
}

fn program(workload: &Workload, options: &Options) -> Result<Program> {
    let program = &workload.program;
    let no_runner = |what: &str, key: &str| {
        let message = format!("it is a package of {what}, and the gateway names no image to run those in");
        permanent(workload, "no_runner", message, &format!("set `{key}` of [kubernetes] in gateway.toml"))
    };
    let own = || program.command.iter().cloned();
    let (image, mut command) = match &program.source {
        Source::Image { image } => (image.clone(), own().collect::<Vec<_>>()),
        Source::Npm { package, version } => {
            let runner = options.npm_runner.clone().ok_or_else(|| no_runner("npm", "npm_runner"))?;
            let package = format!("{package}@{version}");
            let words = if program.command.is_empty() {
                vec!["npx".to_owned(), "-y".to_owned(), package]
            } else {
                let npx =
                    ["npx".to_owned(), "-y".to_owned(), format!("--package={package}"), "--".to_owned()];
                npx.into_iter().chain(own()).collect()
            };
            (runner, words)
        }
        Source::Pypi { package, version } => {
            let index = "the Python Package Index";
            let runner = options.pypi_runner.clone().ok_or_else(|| no_runner(index, "pypi_runner"))?;
            let from = ["uvx".to_owned(), "--from".to_owned(), format!("{package}=={version}")];
            let main = if program.command.is_empty() { vec![package.clone()] } else { own().collect() };
            (runner, from.into_iter().chain(main).collect())
        }
        Source::Remote { .. } => {
            let message = "it runs elsewhere, so nothing is made of it".to_owned();
            return Err(permanent(workload, "remote", message, "nothing is to be done"));
        }
    };
    let (port, path, bridge) = match &program.transport {
        Transport::StreamableHttp { port, path } => (*port, path.clone(), None),
        Transport::Stdio {} => {
            let bridge = options.bridge_image.clone().ok_or_else(|| {
                let message =
                    "it speaks by standard input and output, and the gateway names no image of the bridge";
                let remedy =
                    "set `bridge_image` of [kubernetes] in gateway.toml, or give the server streamable HTTP";
                permanent(workload, "no_bridge", message.to_owned(), remedy)
            })?;
            if command.is_empty() {
                let message =
                    "which program the image begins is known to the nodes only, and the bridge must begin it";
                let remedy = "give the server a `command`: the words of its image's entry point";
                return Err(permanent(workload, "no_program", message.to_owned(), remedy));
            }
            let words = [format!("{BRIDGE_FOLDER}/{BRIDGE}"), "--".to_owned()];
            command = words.into_iter().chain(command).collect();
            (BRIDGE_PORT, "/mcp".to_owned(), Some(bridge))
        }
    };
    Ok(Program { image, command, args: program.args.clone(), port, path, bridge })
}

/// What the port is called: an agent speaks HTTP, a server the Model Context Protocol.
fn port_name(workload: &Workload) -> &'static str {
    match workload.target.kind {
        ArtifactKind::Agent => "http",
        ArtifactKind::Server => "mcp",
    }
}

fn deployment(workload: &Workload, program: &Program, namespace: &str, secrets: &str) -> Value {
    let settings = &workload.kubernetes;
    let mut pod = json!({
        "enableServiceLinks": false,
        // A workload that was given no account has no business with the cluster's API.
        "automountServiceAccountToken": settings.service_account.is_some(),
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container(workload, program)],
    });
    if let Some(account) = &settings.service_account {
        pod["serviceAccountName"] = account.as_str().into();
    }
    if let Some(image) = &program.bridge {
        pod["volumes"] = json!([{ "name": "basalt", "emptyDir": {} }]);
        pod["initContainers"] = json!([{
            "name": "bridge", "image": image,
            "command": ["cp", format!("/{BRIDGE}"), format!("{BRIDGE_FOLDER}/{BRIDGE}")],
            "securityContext": { "allowPrivilegeEscalation": false },
            "volumeMounts": [{ "name": "basalt", "mountPath": BRIDGE_FOLDER }],
        }]);
    }
    let mut object = json!({ "spec": {
        "replicas": settings.replicas.unwrap_or(1),
        "selector": { "matchLabels": { labels::DEPLOYMENT: workload.owner.id.0.to_string() } },
        "template": { "metadata": { "labels": own_labels(workload) }, "spec": pod },
    } });
    if !workload.secret_env.is_empty() {
        object["spec"]["template"]["metadata"]["annotations"] = json!({ SECRETS: secrets });
    }
    let start = workload.program.health.as_ref().map_or(60, |health| health.start_seconds);
    if start > 540 {
        // Else the cluster gives up on it before it may have begun.
        object["spec"]["progressDeadlineSeconds"] = (start + 60).into();
    }
    head(&mut object, workload, namespace, "apps/v1", "Deployment");
    remember(&mut object, program);
    object
}

/// Writes on the object where it is reached and what was applied.
fn remember(object: &mut Value, program: &Program) {
    let applied = drift::digest(object);
    let annotations = &mut object["metadata"]["annotations"];
    annotations[PATH] = program.path.clone().into();
    annotations[APPLIED] = applied.into();
}

fn container(workload: &Workload, program: &Program) -> Value {
    let mut env: Vec<Value> = Vec::new();
    let port = program.port.to_string();
    let plain = workload.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let plain = plain.filter(|(name, _)| *name != "PORT").chain([("PORT", port.as_str())]);
    for (name, value) in plain.filter(|(name, _)| !workload.secret_env.contains_key(*name)) {
        let mut variable = json!({ "name": name });
        if !value.is_empty() {
            // `$(X)` would be replaced by the kubelet; twice the dollar is the dollar itself.
            variable["value"] = value.replace("$(", "$$(").into();
        }
        env.push(variable);
    }
    for name in workload.secret_env.keys() {
        let from = json!({ "name": workload.owner.workload_name(), "key": name });
        env.push(json!({ "name": name, "valueFrom": { "secretKeyRef": from } }));
    }
    let mut container = json!({
        "name": CONTAINER, "image": program.image, "env": env,
        "ports": [{ "name": port_name(workload), "containerPort": program.port, "protocol": "TCP" }],
        "securityContext": { "allowPrivilegeEscalation": false },
    });
    let escaped =
        |words: &[String]| -> Vec<String> { words.iter().map(|w| w.replace("$(", "$$(")).collect() };
    if !program.command.is_empty() {
        container["command"] = escaped(&program.command).into();
    }
    if !program.args.is_empty() {
        container["args"] = escaped(&program.args).into();
    }
    if let Some(limits) = limits(&workload.resources) {
        container["resources"] = json!({ "limits": limits });
    }
    if program.bridge.is_some() {
        container["volumeMounts"] = json!([{ "name": "basalt", "mountPath": BRIDGE_FOLDER }]);
    }
    probes(&mut container, workload, program);
    container
}

/// How the cluster sees that it is well: what the artifact says; else of a server an open port, of an agent that it runs.
fn probes(container: &mut Value, workload: &Workload, program: &Program) {
    const PERIOD_SECONDS: u32 = 2;
    let health = workload.program.health.as_ref();
    let path = if program.bridge.is_some() { Some("/healthz") } else { health.map(|h| h.path.as_str()) };
    let check = match (path, workload.target.kind) {
        (Some(path), _) => json!({ "httpGet": { "path": path, "port": program.port } }),
        (None, ArtifactKind::Server) => json!({ "tcpSocket": { "port": program.port } }),
        (None, ArtifactKind::Agent) => return,
    };
    let start = health.map_or(60, |h| h.start_seconds);
    let probe = |failures: u32, period: u32| {
        let mut probe = check.clone();
        probe["periodSeconds"] = period.into();
        probe["failureThreshold"] = failures.into();
        probe["timeoutSeconds"] = 5.into();
        probe
    };
    container["startupProbe"] = probe(start.div_ceil(PERIOD_SECONDS).max(1), PERIOD_SECONDS);
    container["readinessProbe"] = probe(3, 5);
}

fn limits(resources: &Resources) -> Option<Value> {
    let mut limits = json!({});
    if let Some(bytes) = resources.memory_bytes {
        limits["memory"] = bytes_text(bytes).into();
    }
    if let Some(millis) = resources.cpu_millis {
        let cpu = if millis.is_multiple_of(1000) {
            thousands(u64::from(millis / 1000))
        } else {
            format!("{millis}m")
        };
        limits["cpu"] = cpu.into();
    }
    limits.as_object().is_some_and(|l| !l.is_empty()).then_some(limits)
}

/// Bytes as the cluster writes them: the largest unit that needs no fraction.
fn bytes_text(bytes: u64) -> String {
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let binary = units.into_iter().find(|(_, shift)| bytes.is_multiple_of(1 << shift) && bytes >= 1 << shift);
    binary.map_or_else(|| thousands(bytes), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

fn thousands(mut count: u64) -> String {
    let mut unit = "";
    for next in ["k", "M", "G", "T"] {
        if count == 0 || !count.is_multiple_of(1000) {
            break;
        }
        count /= 1000;
        unit = next;
    }
    format!("{count}{unit}")
}

fn service(workload: &Workload, program: &Program, namespace: &str) -> Value {
    let protocol = match workload.target.kind {
        ArtifactKind::Agent => "kgateway.dev/a2a",
        ArtifactKind::Server => "kgateway.dev/mcp",
    };
    let mut object = json!({ "spec": {
        "selector": { labels::DEPLOYMENT: workload.owner.id.0.to_string() },
        // The protocol is always said: old servers refuse an apply without it.
        "ports": [{
            "name": port_name(workload), "port": program.port, "targetPort": program.port, "protocol": "TCP",
            "appProtocol": protocol,
        }],
    } });
    head(&mut object, workload, namespace, "v1", "Service");
    remember(&mut object, program);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_the_cluster_writes_them() {
        for (bytes, text) in [
            (1 << 30, "1Gi"),
            (1536 << 20, "1536Mi"),
            (500_000_000, "500M"),
            (4_194_304, "4Mi"),
            (5_000_001, "5000001"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
        let cpu = |millis| {
            limits(&Resources { cpu_millis: Some(millis), memory_bytes: None }).unwrap()["cpu"].clone()
        };
        assert_eq!([cpu(250), cpu(1500), cpu(1000), cpu(2_000_000)], ["250m", "1500m", "1", "2k"]);
        assert_eq!(limits(&Resources::default()), None);
    }

    fn workload(kind: ArtifactKind, source: Source, transport: Transport) -> Workload {
        use basalt_model::{Epoch, Generation, Name, artifacts::ArtifactRef, deployments};
        let name = |text: &str| Name::new(text).unwrap();
        Workload {
            owner: deployments::Owner {
                id: basalt_model::DeploymentId(uuid::Uuid::from_u128(7)),
                project: name("p"),
                name: name("web"),
                namespace: None,
            },
            generation: Generation(1),
            epoch: Epoch(2),
            fingerprint: "f".into(),
            target: ArtifactRef { kind, name: name("web"), tag: Default::default() },
            program: deployments::Program {
                source,
                transport,
                command: vec![],
                args: vec!["--x=$(y)".into()],
                health: None,
            },
            env: [("A".to_owned(), String::new()), ("T".to_owned(), "plain".to_owned())].into(),
            secret_env: [("T".to_owned(), deployments::SecretText::new("hush-4711"))].into(),
            resources: Resources::default(),
            kubernetes: Default::default(),
            local: Default::default(),
        }
    }

    fn npm() -> Source {
        Source::Npm { package: "@a/b".into(), version: "1.2.3".into() }
    }

    #[test]
    fn a_server_by_standard_input_has_a_bridge_put_beside_it() {
        let options = Options {
            npm_runner: Some("node:1".into()),
            bridge_image: Some("bridge:1".into()),
            ..Options::default()
        };
        let mut of = workload(ArtifactKind::Server, npm(), Transport::Stdio {});
        let made = wanted(&of, &options, "tools", "5").unwrap();
        let pod = &made.deployment["spec"]["template"]["spec"];
        let words = json!(["/basalt/basalt-mcp-bridge", "--", "npx", "-y", "@a/b@1.2.3"]);
        assert_eq!(pod["containers"][0]["command"], words);
        assert_eq!(
            pod["containers"][0]["args"],
            json!(["--x=$$(y)"]),
            "the kubelet puts nothing in its place"
        );
        assert_eq!(
            pod["containers"][0]["readinessProbe"]["httpGet"],
            json!({ "path": "/healthz", "port": 8080 })
        );
        assert_eq!(pod["initContainers"][0]["image"], "bridge:1");
        assert_eq!(pod["containers"][0]["volumeMounts"], pod["initContainers"][0]["volumeMounts"]);
        assert_eq!(made.service["spec"]["ports"][0]["appProtocol"], "kgateway.dev/mcp");
        assert_eq!(made.service["metadata"]["annotations"][PATH], "/mcp");
        of.program.source = Source::Image { image: "i:1".into() };
        let refused = wanted(&of, &options, "tools", "5").unwrap_err();
        assert_eq!((refused.class, refused.reason.code.as_ref()), (ErrorClass::Permanent, "no_program"));
        of.program.command = vec!["/serve".into()];
        assert!(wanted(&of, &options, "tools", "5").is_ok());
    }

    #[test]
    fn what_the_gateway_has_no_image_for_is_refused_with_what_to_set() {
        let http = Transport::default();
        for (source, transport, key) in [
            (npm(), http.clone(), "npm_runner"),
            (Source::Pypi { package: "p".into(), version: "1".into() }, http, "pypi_runner"),
            (Source::Image { image: "i".into() }, Transport::Stdio {}, "bridge_image"),
        ] {
            let of = workload(ArtifactKind::Server, source, transport);
            let refused = wanted(&of, &Options::default(), "tools", "5").unwrap_err();
            assert_eq!(refused.class, ErrorClass::Permanent);
            assert!(refused.reason.remedy.contains(key), "{refused}");
        }
    }

    /// A secret wins over a plain text of its name, and its value stands in the Secret alone.
    #[test]
    fn secrets_stand_in_the_secret_alone() {
        let image = Source::Image { image: "i:1".into() };
        let of =
            workload(ArtifactKind::Agent, image, Transport::StreamableHttp { port: 80, path: "/".into() });
        let made = wanted(&of, &Options::default(), "tools", "5").unwrap();
        let env = &made.deployment["spec"]["template"]["spec"]["containers"][0]["env"];
        let from = json!({ "secretKeyRef": { "name": "web-00000007", "key": "T" } });
        let all =
            json!([{ "name": "A" }, { "name": "PORT", "value": "80" }, { "name": "T", "valueFrom": from }]);
        assert_eq!(*env, all);
        assert_eq!(made.secret.unwrap()["data"]["T"], "aHVzaC00NzEx");
        let others = format!("{}{}", made.deployment, made.service);
        assert!(!others.contains("hush") && !others.contains("aHVzaC"));
    }
}
