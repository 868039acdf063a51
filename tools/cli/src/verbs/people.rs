//! Users, service tokens and roles.

use super::{Session, change::Taken, login::new_secret};
use crate::{
    Failure,
    args::GrantArgs,
    kinds::Kind,
    output::{Format, note, print_value, sayln},
};
use basalt_wire::rest::IssuedToken;
use serde_json::{Value, json};

impl Session {
    pub(super) async fn create_user(&self, name: &str) -> Result<(), Failure> {
        let password = new_secret("password")?;
        let answer = self.client.post("/v1/users", &json!({"name": name, "password": password})).await?;
        self.conclude(Taken::read(Kind::find("user")?, name, "created", answer)?).await?;
        note!("they may do nothing yet: basalt create role-binding --user {name} --role … --at …");
        Ok(())
    }

    /// The token alone on standard output, so that it can be sent into a file.
    pub(super) async fn create_service_token(
        &self,
        name: &str,
        grant: &GrantArgs,
        days: u32,
    ) -> Result<(), Failure> {
        let grant = self.grant(grant).await?;
        let body = json!({"name": name, "grants": [grant], "expires_in_days": days});
        let answer: Value = self.client.post("/v1/service-tokens", &body).await?;
        if matches!(self.output, Format::Json | Format::Yaml) {
            return print_value(&answer, self.output);
        }
        let token: IssuedToken = serde_json::from_value(answer)?;
        note!("service-token/{name}: shown once, good until {}:", token.expires_at);
        sayln!("{}", token.token);
        Ok(())
    }

    pub(super) async fn create_role_binding(
        &self,
        user: Option<String>,
        service_token: Option<String>,
        grant: &GrantArgs,
    ) -> Result<(), Failure> {
        let principal = match (&user, &service_token) {
            (Some(user), _) => self.find(Kind::find("user")?, user).await?,
            (_, Some(token)) => self.find(Kind::find("service-token")?, token).await?,
            (None, None) => return Err(Failure::Usage("give --user or --service-token".into())),
        };
        let body = json!({"principal_id": principal["id"], "grant": self.grant(grant).await?});
        let answer: Value = self.client.post("/v1/role-bindings", &body).await?;
        let id = answer.get("id").and_then(Value::as_str).unwrap_or("-").to_owned();
        self.conclude(Taken::read(Kind::find("role-binding")?, &id, "created", answer)?).await
    }

    /// A role and a scope by name as the gateway wants them: by id.
    async fn grant(&self, grant: &GrantArgs) -> Result<Value, Failure> {
        let scope = match grant.at.split_once('/') {
            None if grant.at == "system" => json!({"kind": "system"}),
            Some(("tenant", name)) => {
                let tenant = self.find(Kind::find("tenant")?, name).await?;
                json!({"kind": "tenant", "tenant_id": tenant["id"]})
            }
            Some(("project", name)) => {
                let project = self.find(Kind::find("project")?, name).await?;
                json!({"kind": "project", "tenant_id": project["tenant_id"], "project_id": project["id"]})
            }
            _ => {
                return Err(Failure::Usage(format!(
                    "--at {}: write system, tenant/NAME or project/NAME",
                    grant.at
                )));
            }
        };
        Ok(json!({"role": grant.role, "scope": scope}))
    }
}
