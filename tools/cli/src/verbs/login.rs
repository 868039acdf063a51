//! Logging in.

use crate::{
    Failure,
    args::Login,
    client::Client,
    config::{self, Config},
    output::sayln,
};
use basalt_model::Name;
use basalt_wire::rest::{self, IssuedToken, Whoami};
use std::io::{IsTerminal, Read, Write};

/// Logs in and remembers the gateway; nothing is written unless the gateway said yes.
pub(super) async fn login(login: Login, saved: Config) -> Result<(), Failure> {
    let mut config = Config {
        url: login.url,
        token: String::new(),
        ca_file: login.ca_file.map(std::path::absolute).transpose()?.or(saved.ca_file),
        project: saved.project,
    };
    if login.token_stdin {
        config.token = secret("token")?;
    } else {
        let user = Name::new(login.user).map_err(|e| Failure::Usage(format!("--user: {e}")))?;
        let password = secret("password")?;
        let body = rest::Login { user, password, first_boot_token: login.first_boot_token };
        let issued: IssuedToken = Client::new(&config)?.post("/v1/login", &body).await?;
        config.token = issued.token;
    }
    let who: Whoami = Client::new(&config)?.get("/v1/whoami").await?;
    let path = config::write(&config)?;
    sayln!("logged in as {} ({}); remembered in {}", who.name, who.kind, path.display());
    Ok(())
}

/// Reads a secret from standard input: a line at a terminal, everything from a pipe.
fn secret(what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        eprint!("{what}: ");
        std::io::stderr().flush()?;
        std::io::stdin().read_line(&mut text)?;
    } else {
        std::io::stdin().read_to_string(&mut text)?;
    }
    match text.trim() {
        "" => Err(Failure::Usage(format!("no {what} was given; type it, or pipe it in"))),
        text => Ok(text.to_owned()),
    }
}
