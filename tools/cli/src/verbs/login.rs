//! Logging in and out.

use super::Session;
use crate::{
    Failure,
    args::Login,
    client::Client,
    config::{self, Config},
    output::{note, sayln},
};
use basalt_model::Name;
use basalt_wire::rest::{self, IssuedToken, Whoami};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal, Read, Write};

/// Logs in and remembers the gateway; nothing is written unless the gateway said yes.
pub(super) async fn login(login: Login, saved: Config) -> Result<(), Failure> {
    let mut config = Config {
        url: address(login.url, saved.url)?,
        token: String::new(),
        ca_file: login.ca_file.map(std::path::absolute).transpose()?.or(saved.ca_file),
        project: saved.project,
    };
    if login.token_stdin {
        config.token = secret("token")?;
    } else {
        let user = Name::new(login.user).map_err(|e| Failure::Usage(format!("--user: {e}")))?;
        // A first password that was mistyped would lock everybody out.
        let password = match login.first_boot_token.is_some() {
            true => new_secret("password")?,
            false => secret("password")?,
        };
        let body = rest::Login { user, password, first_boot_token: login.first_boot_token };
        let issued: IssuedToken = Client::new(&config)?.post("/v1/login", &body).await?;
        config.token = issued.token;
    }
    let who: Whoami = Client::new(&config)?.get("/v1/whoami").await?;
    let path = config::write(&config)?;
    sayln!("logged in as {} ({}); remembered in {}", who.name, who.kind.replace('_', " "), path.display());
    Ok(())
}

/// The gateway to log in to. A password is never sent in the clear.
fn address(given: Option<String>, saved: String) -> Result<String, Failure> {
    let url = given.unwrap_or(saved);
    match url.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() => Ok(url),
        _ if url.is_empty() => Err(Failure::Usage("--url: give the gateway, https://HOST:9443".into())),
        _ => Err(Failure::Usage(format!("--url {url}: write https://HOST:9443"))),
    }
}

impl Session {
    /// Ends a user's session. A service token is only forgotten: the program that holds it lives on.
    pub(super) async fn logout(&self) -> Result<(), Failure> {
        let who = match self.client.get::<Whoami>("/v1/whoami").await {
            Ok(who) => Some(who),
            // A token that is good no more has nothing left to end.
            Err(Failure::Problem(p)) if p.status == 401 => None,
            Err(e) => return Err(e),
        };
        if who.as_ref().is_some_and(|who| who.kind == "user") {
            self.client.call::<serde_json::Value>("/v1/logout").await?;
        }
        let path = config::write(&Config { token: String::new(), ..config::remembered()? })?;
        sayln!("logged out; no token is left in {}", path.display());
        if let Some(who) = who.filter(|who| who.kind != "user") {
            note!("the service token itself goes on: basalt delete service-token {} ends it", who.name);
        }
        Ok(())
    }
}

/// Reads a secret from standard input: a line at a terminal, everything from a pipe.
fn secret(what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    if io::stdin().is_terminal() {
        text = typed(what)?;
    } else {
        io::stdin().read_to_string(&mut text)?;
    }
    match text.trim() {
        "" => Err(Failure::Usage(format!("no {what} was given; type it, or pipe it in"))),
        text => Ok(text.to_owned()),
    }
}

/// The same for a secret that is new: typed twice.
pub(super) fn new_secret(what: &str) -> Result<String, Failure> {
    let first = secret(what)?;
    if io::stdin().is_terminal() && typed(&format!("{what} again"))?.trim() != first {
        return Err(Failure::Usage(format!("the two {what}s differ; nothing was done")));
    }
    Ok(first)
}

/// Reads a line from the terminal without showing it.
fn typed(what: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(io::Error::from)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    // Before the question: what is typed in answer to it must not be seen, nor thrown away.
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(io::Error::from)?;
    eprint!("{what}: ");
    io::stderr().flush()?;
    let mut text = String::new();
    let read = stdin.read_line(&mut text);
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(io::Error::from)?;
    note!("");
    read?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_spoken_with_over_tls_alone() {
        let url = |given: Option<&str>, saved: &str| address(given.map(Into::into), saved.into());
        assert_eq!(url(None, "https://a:1").ok().unwrap(), "https://a:1");
        assert_eq!(url(Some("https://b:1"), "https://a:1").ok().unwrap(), "https://b:1");
        for wrong in ["http://a:1", "a:9443", "https://"] {
            let failure = url(Some(wrong), "").err().unwrap();
            assert!(failure.exit_code() == 2 && failure.text().contains("https://HOST:9443"), "{wrong}");
        }
    }
}
