//! Serial consoles for users: one long poll fetches tickets, and each ticket becomes one connection that carries what
//! the guest writes one way and what is typed the other. The gateway decides who may; the agent carries.

use crate::{
    Error,
    agent::Wait,
    counters,
    host::{Host, console::Console},
    link::Gateway,
};
use basalt_model::CapabilityReason;
use basalt_wire::agent::{
    console::{PIECE_BYTES, PIECES, Ticket, Tickets},
    counters::QUESTIONS,
};
use bytes::Bytes;
use chrono::TimeDelta;
use futures::{StreamExt, stream::BoxStream};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet};

/// Consoles of this host at once.
const MOST: usize = 64;
/// How long opening may take; the gateway waits no longer for it.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How long the last bytes may take to arrive.
const LAST_LIMIT: Duration = Duration::from_secs(10);

/// What is typed into a console. Its end, in whatever way, is that of the console.
pub type Typed = BoxStream<'static, Result<Bytes, Error>>;

/// Fetches tickets and opens what they are for, and answers questions. Never ends; dropped, all consoles end with it.
pub(crate) async fn serve<H: Host, G: Gateway>(host: &Arc<H>, gateway: &Arc<G>, wait: &Wait) {
    let (mut open, mut answering, mut failures) = (JoinSet::new(), JoinSet::new(), 0);
    loop {
        let asked_at = wait.clock.now();
        match gateway.tickets().await {
            Ok(Tickets { tickets, questions }) => {
                failures = 0;
                while open.try_join_next().is_some() {}
                while answering.try_join_next().is_some() {}
                if tickets.is_empty()
                    && questions.is_empty()
                    && wait.clock.now() - asked_at < TimeDelta::seconds(1)
                {
                    // A gateway that is about to stop answers at once; it is not to be asked in a tight loop.
                    tokio::time::sleep(wait.jittered(wait.pace.retry)).await;
                }
                for ticket in tickets {
                    let (host, gateway) = (Arc::clone(host), Arc::clone(gateway));
                    match open.len() < MOST {
                        true => drop(open.spawn(async move { serve_one(&*host, &*gateway, ticket).await })),
                        false => {
                            tracing::warn!(vm = %ticket.vm_id, "{MOST} consoles are open; one more was not opened")
                        }
                    }
                }
                for question in questions {
                    let (host, gateway) = (Arc::clone(host), Arc::clone(gateway));
                    // Whoever asks more at once hears nothing, and is told so by the gateway.
                    if answering.len() < QUESTIONS {
                        answering.spawn(async move { counters::answer(&*host, &*gateway, question).await });
                    }
                }
            }
            Err(e) => {
                tracing::debug!(error = %e, "no tickets for consoles");
                wait.after(&e, failures).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

async fn serve_one<H: Host, G: Gateway>(host: &H, gateway: &G, ticket: Ticket) {
    let opened = tokio::time::timeout(OPEN_LIMIT, host.console(ticket.vm_id, ticket.mode)).await;
    let opened =
        opened.unwrap_or_else(|_| Err(Error::host("opening a console", "the host did not answer in time")));
    let result = match opened {
        Ok(console) => carry(gateway, &ticket, console).await,
        Err(e) => gateway.refuse_console(&ticket.ticket, refusal(&ticket, e)).await,
    };
    if let Err(e) = result {
        tracing::warn!(vm = %ticket.vm_id, error = %e, "a console could not be opened");
    }
}

fn refusal(ticket: &Ticket, error: Error) -> CapabilityReason {
    match error {
        Error::Refused(reason) => *reason,
        other => {
            tracing::warn!(vm = %ticket.vm_id, error = %other, "a console cannot be opened");
            let what = "the host could not open the console";
            CapabilityReason::new(
                "console_failed",
                format!("vm/{}", ticket.vm_id),
                what,
                "try again; the agent's log says more",
            )
            .with_evidence(other.to_string())
        }
    }
}

async fn carry<G: Gateway>(gateway: &G, ticket: &Ticket, console: Console) -> Result<(), Error> {
    let (sender, body) = mpsc::channel(PIECES);
    let mut typed = gateway.open_console(&ticket.ticket, body).await?;
    let Console { mut log, port } = console;
    let (mut output, input) = port.map(|p| (p.output, p.input)).unzip();
    let write = async {
        while !log.is_empty() {
            sender.send(log.split_to(log.len().min(PIECE_BYTES))).await.ok()?;
        }
        while let Some(piece) = output.as_mut()?.read().await {
            sender.send(piece).await.ok()?;
        }
        Some(())
    };
    let read = async {
        while let Some(Ok(piece)) = typed.next().await {
            // What is typed while only the log is read goes nowhere.
            if let Some(input) = &input
                && input.send(piece).await.is_err()
            {
                // The port ended; the other direction says so when all it wrote is on its way.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = write => {}
        () = read => return Ok(()),
        () = sender.closed() => return Ok(()),
    }
    // Nothing more is written; the gateway ends its side when it has all of it.
    drop(sender);
    drop(input);
    let rest = async { while let Some(Ok(_)) = typed.next().await {} };
    let _ = tokio::time::timeout(LAST_LIMIT, rest).await;
    Ok(())
}
