//! Agents, servers, secrets, providers and deployments, as the feed delivered them. What providers' platforms show is
//! not kept: it is not watched, and whoever lists it reads it from the database.

use super::{Noun, Touched, list};
use basalt_model::{Metadata, artifacts::ArtifactKind};
use basalt_store::{
    artifacts::Artifact,
    conditions::Conditions,
    deployments::{self, Deployment, Status},
    discovered::ProviderStatus,
    feed::{Row, Table},
    providers::Provider,
    secrets::Secret,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use uuid::Uuid;

/// The rows.
#[derive(Default)]
pub(super) struct Registry {
    artifacts: BTreeMap<Uuid, Arc<Artifact>>,
    secrets: BTreeMap<Uuid, Arc<Secret>>,
    providers: BTreeMap<Uuid, Arc<Provider>>,
    provider_status: HashMap<Uuid, Arc<ProviderStatus>>,
    deployments: BTreeMap<Uuid, Arc<Deployment>>,
    deployment_status: HashMap<Uuid, Arc<Status>>,
}

/// One of them as it stood at one moment.
#[derive(Clone, Debug)]
pub enum Registered {
    /// An agent or a server.
    Artifact(Arc<Artifact>),
    /// A secret, without its value.
    Secret(Arc<Secret>),
    /// A provider.
    Provider(Arc<Provider>, Option<Arc<ProviderStatus>>),
    /// A deployment.
    Deployment(Arc<Deployment>, Option<Arc<Status>>, Option<Arc<Conditions>>),
}

impl Registered {
    /// The object as `GET` shows it.
    pub(super) fn json(self) -> serde_json::Result<serde_json::Value> {
        use serde_json::to_value;
        match self {
            Self::Artifact(a) if a.spec.kind() == ArtifactKind::Agent => {
                to_value(crate::agents::view(Arc::unwrap_or_clone(a)))
            }
            Self::Artifact(a) => to_value(crate::servers::view(Arc::unwrap_or_clone(a))),
            Self::Secret(s) => to_value(crate::secrets::view(Arc::unwrap_or_clone(s))),
            Self::Provider(p, status) => {
                let status = status.map(Arc::unwrap_or_clone);
                to_value(crate::providers::view(Arc::unwrap_or_clone(p), status))
            }
            Self::Deployment(d, status, conditions) => {
                to_value(crate::deployments::view(deployments::View {
                    deployment: Arc::unwrap_or_clone(d),
                    status: status.map(Arc::unwrap_or_clone),
                    conditions: list(conditions),
                }))
            }
        }
    }
}

fn noun_of(artifact: &Artifact) -> Noun {
    match artifact.spec.kind() {
        ArtifactKind::Agent => Noun::Agent,
        ArtifactKind::Server => Noun::Server,
    }
}

impl Registry {
    /// Keeps a row, or forgets it. Tells which noun looks different now.
    pub(super) fn keep_row(&mut self, table: Table, id: Uuid, row: Option<&Row>) -> Option<Noun> {
        macro_rules! kept {
            ($map:ident, $variant:ident, $noun:expr) => {{
                keep!(self.$map, id, row, Row::$variant);
                Some($noun)
            }};
        }
        match table {
            Table::Artifact => {
                let now = match row {
                    Some(Row::Artifact(artifact)) => Some(artifact),
                    _ => None,
                };
                // What is gone says no more of which kind it was.
                let noun = now.or(self.artifacts.get(&id)).map(|a| noun_of(a));
                keep!(self.artifacts, id, row, Row::Artifact);
                noun
            }
            Table::Secret => kept!(secrets, Secret, Noun::Secret),
            Table::Provider => kept!(providers, Provider, Noun::Provider),
            Table::ProviderStatus => kept!(provider_status, ProviderStatus, Noun::Provider),
            Table::Deployment => kept!(deployments, Deployment, Noun::Deployment),
            Table::DeploymentStatus => kept!(deployment_status, DeploymentStatus, Noun::Deployment),
            _ => None,
        }
    }

    pub(super) fn has_deployment(&self, id: Uuid) -> bool {
        self.deployments.contains_key(&id)
    }

    /// An object as it stands.
    pub(super) fn object(
        &self,
        noun: Noun,
        id: Uuid,
        conditions: Option<Arc<Conditions>>,
    ) -> Option<Registered> {
        Some(match noun {
            Noun::Agent | Noun::Server => {
                Registered::Artifact(self.artifacts.get(&id).filter(|a| noun_of(a) == noun)?.clone())
            }
            Noun::Secret => Registered::Secret(self.secrets.get(&id)?.clone()),
            Noun::Provider => {
                Registered::Provider(self.providers.get(&id)?.clone(), self.provider_status.get(&id).cloned())
            }
            Noun::Deployment => Registered::Deployment(
                self.deployments.get(&id)?.clone(),
                self.deployment_status.get(&id).cloned(),
                conditions,
            ),
            _ => return None,
        })
    }

    /// Every object of a noun.
    pub(super) fn all(&self, noun: Noun) -> Vec<Touched> {
        let of = |m: &Metadata| Touched { noun, id: m.id, tenant_id: m.tenant_id, project_id: m.project_id };
        match noun {
            Noun::Agent | Noun::Server => {
                let these = self.artifacts.values().filter(|a| noun_of(a) == noun);
                these.map(|a| of(&a.metadata)).collect()
            }
            Noun::Secret => self.secrets.values().map(|s| of(&s.metadata)).collect(),
            Noun::Provider => self.providers.values().map(|p| of(&p.metadata)).collect(),
            Noun::Deployment => self.deployments.values().map(|d| of(&d.metadata)).collect(),
            _ => Vec::new(),
        }
    }
}
