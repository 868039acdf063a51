//! A VM's console from a user's request to the guest and back, over real mutual TLS and HTTP/2.

use anyhow::{Context, Result, bail, ensure};
use basalt_plan::host::effect::Mishap;
use basalt_tests::{House, api::vm_id, wait};
use bytes::Bytes;
use futures::stream::poll_fn;
use reqwest::{Body, Method, Response, StatusCode};
use std::time::Duration;
use tokio::sync::mpsc;

/// An open console.
struct Console {
    typed: mpsc::Sender<Bytes>,
    screen: Response,
    seen: String,
}

async fn open(house: &House, vm: &str) -> Result<Console> {
    let (typed, mut keys) = mpsc::channel::<Bytes>(4);
    let body = Body::wrap_stream(poll_fn(move |context| {
        keys.poll_recv(context).map(|k| k.map(Ok::<_, std::io::Error>))
    }));
    let request = house.api.request(Method::POST, &house.api.path(&format!("vms/{vm}/console"))).body(body);
    let screen = request.send().await?;
    ensure!(screen.status() == StatusCode::OK, "{}", screen.text().await?);
    Ok(Console { typed, screen, seen: String::new() })
}

impl Console {
    async fn until(&mut self, text: &str) -> Result<()> {
        let reading = async {
            while !self.seen.contains(text) {
                let piece = self.screen.chunk().await?.context("it goes on")?;
                self.seen += std::str::from_utf8(&piece)?;
            }
            anyhow::Ok(())
        };
        let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
        read.with_context(|| format!("{text:?} never came; seen: {:?}", self.seen))?
    }

    async fn type_in(&self, text: &'static str) -> Result<()> {
        Ok(self.typed.send(Bytes::from_static(text.as_bytes())).await?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_shows_the_log_and_the_guest_and_ends_when_the_vm_stops() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let vm = house.api.running_vm("web").await?;
    let (mut a, mut b) = (open(&house, "web").await?, open(&house, "web").await?);
    for console in [&mut a, &mut b] {
        console.until(&format!("simulated guest {}", vm.metadata.id)).await?;
    }
    // A simulated guest says again what is typed, to all who look.
    a.type_in("hostname\r").await?;
    a.until("hostname\r").await?;
    b.until("hostname\r").await?;
    b.type_in("uptime\r").await?;
    a.until("uptime\r").await?;
    drop(b);

    house.machine_of(&vm)?.sim.suffer(&Mishap::Kill(vm_id(&vm)));
    let end = tokio::time::timeout(Duration::from_secs(10), async {
        while a.screen.chunk().await?.is_some() {}
        anyhow::Ok(())
    });
    end.await.context("it does not end")?.context("it does not end well")?;

    // A VM that is off has a log and nobody to type to.
    let stop = house.api.verb("web", "stop").await?;
    house.api.completed(&stop).await?;
    let path = house.api.path("vms/web/console");
    let log = house.api.send(house.api.request(Method::GET, &path)).await?;
    ensure!(log.status == 200 && log.body.to_string().contains("simulated guest"), "{log:?}");
    let Err(refused) = open(&house, "web").await else { bail!("a VM that is off was opened") };
    ensure!(refused.to_string().contains("not_running"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_breaks_with_the_agent_and_is_there_again_with_the_next() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let vm = house.api.running_vm("web").await?;
    let mut console = open(&house, "web").await?;
    console.until("simulated guest").await?;
    let machine = house.machine_of(&vm)?;
    machine.kill().await;
    let broke = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match console.screen.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => bail!("it says that it ended well"),
                Err(_) => return Ok(()),
            }
        }
    });
    broke.await.context("it goes on without an agent")??;
    machine.start()?;
    let mut console =
        wait::until("the console is there again", || async { open(&house, "web").await.map(Some) }).await?;
    console.type_in("still here").await?;
    console.until("still here").await
}
