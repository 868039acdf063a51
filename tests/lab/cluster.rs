//! A whole cluster for one test, taken down at its end whatever happens.

use basalt_cli::client::Client;
use basalt_lab::{Lab, Ports, bootstrap, host::Host, journey, postgres::Durability};
use basalt_model::tasks::Task;
use basalt_wire::rest::Vm;
use serde_json::Value;
use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// The lab, its administrator's client, and the folder that holds both.
pub struct Cluster {
    pub lab: Arc<Lab>,
    pub client: Client,
    _dir: tempfile::TempDir,
}

/// Where cargo put the programs: two levels above the test's own.
pub fn bin_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let dir = test.parent().and_then(|p| p.parent()).unwrap().to_owned();
    for program in ["basalt", "basalt-gateway", "basalt-agent", "basalt-image-service", "basalt-lab"] {
        assert!(dir.join(program).exists(), "{program} is not built: run cargo build --workspace --bins");
    }
    dir
}

impl Cluster {
    /// A cluster of one host, with nothing in it.
    pub async fn up() -> Self {
        Self::with_hosts(&["h1"]).await
    }

    /// A cluster of these hosts, with nothing in it.
    pub async fn with_hosts(names: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("bl").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let bins = bin_dir();
        let lab = Lab::builder(dir.path().join("d"))
            .bin_dir(&bins)
            .lab_program(bins.join("basalt-lab"))
            .durability(Durability::Test)
            .ports(Ports::Ephemeral)
            .cache_dir(bins.join("lab-cache"))
            .hosts(names.iter().copied())
            .build()
            .unwrap();
        let lab = Arc::new(lab);
        lab.serve_control().unwrap();
        let access = bootstrap::bootstrap(&lab, &bins).await.unwrap();
        let client = bootstrap::client(&access).unwrap();
        Self { lab, client, _dir: dir }
    }

    /// A cluster with the journey's VM running and answering.
    pub async fn with_vm() -> (Self, journey::Outcome) {
        let cluster = Self::up().await;
        let outcome = cluster.journey().await;
        (cluster, outcome)
    }

    /// A project with the image of the journey; gives the project's path.
    pub async fn project(&self, name: &str) -> String {
        let image = self.lab.guest_image(&mut |_| {}).unwrap();
        match journey::with_image(&self.client, name, &image.path).await {
            Ok(project) => project,
            Err(e) => panic!("{e:#}\n{}", self.logs()),
        }
    }

    async fn journey(&self) -> journey::Outcome {
        let image = self.lab.guest_image(&mut |_| {}).unwrap();
        match journey::run(&self.client, &image.path, &Door(&self.lab)).await {
            Ok(outcome) => outcome,
            Err(e) => panic!("{e:#}\n{}", self.logs()),
        }
    }

    pub fn host(&self) -> &Host {
        self.lab.host("h1").unwrap()
    }

    /// The ends of the logs, for a test that failed.
    pub fn logs(&self) -> String {
        let tail = |p: PathBuf| format!("--- {}\n{}\n", p.display(), basalt_lab::process::tail(&p, 25));
        let below = |host: &Host| std::fs::read_dir(host.dir().join("log-basalt"));
        let of_hosts = self.lab.hosts().iter().flat_map(below).flatten().flatten().map(|e| tail(e.path()));
        let gateway = tail(self.lab.layout().log_file("basalt-gateway"));
        std::iter::once(gateway).chain(of_hosts).collect()
    }

    pub async fn vm(&self) -> Vm {
        journey::vm(&self.client).await.unwrap()
    }

    /// Runs the command line's program as a user would, and gives what it printed.
    pub fn basalt(&self, arguments: &[&str]) -> String {
        let mut command = std::process::Command::new(bin_dir().join("basalt"));
        command.args(arguments).env("BASALT_CONFIG", bootstrap::access_file(&self.lab));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "basalt {arguments:?}: {said}\n{}", self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Calls a verb of the journey's VM and follows its task to the end.
    pub async fn verb(&self, verb: &str) {
        let path = format!("/v1/projects/{}/vms/{}/{verb}", journey::PROJECT, journey::VM);
        let answer: Value = self.client.call(&path).await.unwrap_or_else(|e| panic!("{verb}: {}", e.text()));
        self.follow(&answer).await;
    }

    /// Posts a body and gives the answer.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        self.client.post(path, body).await.unwrap_or_else(|e| panic!("{path}: {}\n{}", e.text(), self.logs()))
    }

    pub async fn follow(&self, answer: &Value) {
        let task: Task = serde_json::from_value(answer["task"].clone()).unwrap();
        let followed = self.client.follow(task.id, Duration::from_secs(90), |_| {}).await;
        followed.unwrap_or_else(|e| panic!("{}\n{}", e.text(), self.logs()));
    }

    /// What libvirt says of the VM, in one word.
    pub fn domain_state(&self, id: uuid::Uuid) -> String {
        self.host()
            .run(&["virsh", "domstate", &id.to_string()])
            .map_or("none".into(), |s| s.trim().to_owned())
    }

    /// Fetches a page of the guest until it answers.
    pub async fn page(&self, address: std::net::Ipv4Addr, path: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.host().http_get(address, path) {
                Ok(page) => return page.body,
                Err(e) => assert!(Instant::now() < end, "{path}: {e:#}\n{}", self.logs()),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Waits until something holds.
pub async fn until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds().await {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

struct Door<'a>(&'a Lab);

impl journey::GuestDoor for Door<'_> {
    fn fetch(&self, host: &str, address: std::net::Ipv4Addr) -> anyhow::Result<String> {
        Ok(self.0.host(host)?.http_get(address, "/")?.body)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(e) = self.lab.stop() {
            eprintln!("the lab did not stop cleanly: {e:#}");
        }
    }
}
