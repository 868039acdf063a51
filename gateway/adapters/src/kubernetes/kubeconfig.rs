//! Reading a kubeconfig with care: it was written by a user, and must make the gateway neither run programs nor read
//! files, nor show up in what is said about it.

use super::reasons::error;
use crate::{Error, Result};
use basalt_model::deployments::{ErrorClass, SecretText};
use kube::config::{AuthInfo, Cluster, Config, Kubeconfig};
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// Longest kubeconfig, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// A kubeconfig that was let in.
pub(super) struct Read {
    pub config: Config,
    /// Host and port of the cluster, to name it by.
    pub server: String,
}

fn refuse(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    error(ErrorClass::Permanent, "kubeconfig_refused", "kubeconfig", message, remedy)
}

/// Takes the one context's cluster and user out of it.
pub(super) fn read(text: &SecretText, context: Option<&str>) -> Result<Read> {
    if text.expose().len() > MAX_BYTES {
        return Err(refuse(
            "the kubeconfig is longer than 1 MiB",
            "leave only the context in it that is used",
        ));
    }
    // What the parser says may quote what it could not parse, and that may be a secret.
    let parsed = Kubeconfig::from_yaml(text.expose()).map_err(|_| {
        refuse(
            "the secret's value is no kubeconfig",
            "put the output of `kubectl config view --raw --flatten --minify` there",
        )
    })?;
    let wanted = context.or(parsed.current_context.as_deref()).filter(|name| !name.is_empty());
    let Some(wanted) = wanted else {
        return Err(refuse("the kubeconfig has no current context", "name one in the provider's `context`"));
    };
    let named = parsed.contexts.iter().find(|c| c.name == wanted).and_then(|c| c.context.as_ref());
    let Some(context) = named else {
        return Err(refuse(
            format!("the kubeconfig has no context {wanted:?}"),
            "name one that it has in the provider's `context`",
        ));
    };
    let cluster = parsed.clusters.iter().find(|c| c.name == context.cluster).and_then(|c| c.cluster.as_ref());
    let Some(cluster) = cluster else {
        return Err(refuse(
            format!("the context {wanted:?} names a cluster that the kubeconfig lacks"),
            "add it",
        ));
    };
    let user = context.user.as_deref().unwrap_or_default();
    let auth = parsed.auth_infos.iter().find(|u| u.name == user).and_then(|u| u.auth_info.as_ref());
    let Some(auth) = auth else {
        return Err(refuse(
            format!("the context {wanted:?} names a user that the kubeconfig lacks"),
            "add it",
        ));
    };
    check_user(auth)?;
    config(cluster, auth)
}

fn check_user(user: &AuthInfo) -> Result<()> {
    if user.exec.is_some() {
        return Err(refuse(
            "the user's credentials come from a program (`exec`), and the gateway runs no programs for a kubeconfig",
            "make a ServiceAccount with deploy/kubernetes/role.yaml and put its token into the kubeconfig",
        ));
    }
    if user.auth_provider.is_some() {
        return Err(refuse(
            "the user's credentials come from a plugin (`auth-provider`), and the gateway runs none",
            "make a ServiceAccount with deploy/kubernetes/role.yaml and put its token into the kubeconfig",
        ));
    }
    let files = [
        ("tokenFile", &user.token_file),
        ("client-certificate", &user.client_certificate),
        ("client-key", &user.client_key),
    ];
    files.into_iter().find(|(_, file)| file.is_some()).map_or(Ok(()), |(field, _)| Err(file(field)))
}

fn file(field: &str) -> Error {
    refuse(
        format!("the kubeconfig names a file (`{field}`), and the gateway reads no files for a kubeconfig"),
        "use `kubectl config view --raw --flatten --minify`, which puts the file's content in its place",
    )
}

fn config(cluster: &Cluster, user: &AuthInfo) -> Result<Read> {
    if cluster.certificate_authority.is_some() {
        return Err(file("certificate-authority"));
    }
    if cluster.proxy_url.is_some() {
        return Err(refuse(
            "the kubeconfig names a proxy (`proxy-url`), and the gateway goes to clusters directly",
            "leave it out and let the gateway's machine reach the cluster",
        ));
    }
    let url: http::Uri =
        cluster.server.as_deref().and_then(|server| server.parse().ok()).ok_or_else(|| {
            refuse("the cluster has no address", "write it like server: https://cluster.example:6443")
        })?;
    if url.scheme_str() != Some("https") {
        return Err(refuse(
            "the cluster's address is not https, so credentials would go over the wire in the clear",
            "write the address of the API server itself, like https://cluster.example:6443",
        ));
    }
    let server =
        url.authority().map(|a| a.host().to_owned() + &a.port().map(|p| format!(":{p}")).unwrap_or_default());
    let mut config = Config::new(url);
    config.root_cert = cluster.certificate_authority_data.as_deref().map(authorities).transpose()?;
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.tls_server_name = cluster.tls_server_name.clone();
    config.auth_info = user.clone();
    // Whoever calls decides about another attempt.
    config.default_retry = false;
    Ok(Read { config, server: server.unwrap_or_default() })
}

fn authorities(encoded: &str) -> Result<Vec<Vec<u8>>> {
    use base64::Engine as _;
    let bad = || {
        refuse("`certificate-authority-data` is no certificate", "put the cluster's CA there, PEM in base64")
    };
    let pem = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).map_err(|_| bad())?;
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all: Vec<Vec<u8>> = all.map_err(|_| bad())?.into_iter().map(|c| c.to_vec()).collect();
    if all.is_empty() { Err(bad()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(cluster: &str, user: &str) -> SecretText {
        SecretText::new(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{{cluster}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        ))
    }

    fn refused(cluster: &str, user: &str) -> String {
        let error = read(&kubeconfig(cluster, user), None).err().unwrap();
        assert_eq!(error.class, ErrorClass::Permanent);
        error.to_string()
    }

    #[test]
    fn what_would_run_programs_or_read_files_is_refused_by_field() {
        let cluster = "server: 'https://c.example:6443'";
        assert!(read(&kubeconfig(cluster, "token: t"), None).is_ok());
        for (cluster, user, word) in [
            (cluster, "exec: {apiVersion: v1, command: /bin/evil}", "`exec`"),
            (cluster, "auth-provider: {name: gcp}", "`auth-provider`"),
            (cluster, "tokenFile: /etc/shadow", "`tokenFile`"),
            (cluster, "client-certificate: /etc/a.pem", "`client-certificate`"),
            (cluster, "client-key: /etc/a.key", "`client-key`"),
            ("server: 'https://c', certificate-authority: /etc/ca", "token: t", "`certificate-authority`"),
            ("server: 'https://c', proxy-url: 'http://p'", "token: t", "`proxy-url`"),
            ("server: 'http://127.0.0.1:8001'", "token: t", "https"),
            ("server: 'https://c', certificate-authority-data: aGk=", "token: t", "certificate"),
        ] {
            let said = refused(cluster, user);
            assert!(said.contains(word), "{said}");
            assert!(!said.contains("/etc") && !said.contains("evil"), "{said}");
        }
    }

    #[test]
    fn what_is_no_kubeconfig_is_not_quoted() {
        for text in ["token: hush-4711\n  bad: [", "hush-4711", "current-context: c\nusers: {hush-4711: 1}\n"]
        {
            let said = read(&SecretText::new(text), None).err().unwrap().to_string();
            assert!(!said.contains("hush"), "{said}");
        }
        let other = read(&kubeconfig("server: 'https://c'", "token: t"), Some("other")).err().unwrap();
        assert!(other.to_string().contains("no context \"other\""), "{other}");
    }
}
