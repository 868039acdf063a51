//! The truth as the feed delivered it, kept in memory for watchers and for answers about
//! placement. It can be dropped at any time: the next reload fills it again.

/// Puts a row in its map, or takes it out.
macro_rules! keep {
    ($map:expr, $id:expr, $row:expr, $variant:path) => {
        match $row {
            Some($variant(row)) => drop($map.insert($id, Arc::clone(row))),
            _ => drop($map.remove(&$id)),
        }
    };
}

mod registered;

pub use registered::Registered;

use basalt_model::{
    DateTime, Generation, HostId, ImageId, Name, NetworkId, PortId, ProjectId, TenantId, VmId, hosts,
    quotas::Demand, roles::Scope, routers::RouterUplink, tasks::Task,
};
use basalt_plan::{
    drains::{Leaver, Placed},
    placement::{
        self,
        affinity::{Neighbours, Peer},
    },
    what_if::Guest,
};
use basalt_store::{
    conditions::Conditions,
    feed::{Change, Row, Table},
    hosts::{Certificate, Host, HostClaim, HostFactsRow, HostView},
    images::{Image, ImageFacts, ImageView},
    networks::{Network, NetworkView},
    placements::Placement,
    pools::Pool,
    projects::Project,
    routers::{Placement as RouterPlacement, Router, RouterView},
    security_groups::SecurityGroup,
    tenants::Tenant,
    vms::{Vm, VmFacts, VmView},
    volumes::{Volume, VolumeFacts, VolumeView},
};
use registered::Registry;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, OnceLock},
};
use uuid::Uuid;

/// Tasks that ended and are still remembered.
const ENDED_TASKS: usize = 4096;

/// The nouns that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Noun {
    /// A tenant.
    Tenant,
    /// A project.
    Project,
    /// A host.
    Host,
    /// A pool.
    Pool,
    /// A network.
    Network,
    /// A security group.
    SecurityGroup,
    /// A router.
    Router,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A virtual machine.
    Vm,
    /// An agent.
    Agent,
    /// A server of the Model Context Protocol.
    Server,
    /// A secret, without its value.
    Secret,
    /// A provider.
    Provider,
    /// A deployment.
    Deployment,
    /// A task that has not ended, and its end.
    Task,
}

impl Noun {
    /// All of them, in the order of a snapshot.
    pub const ALL: [Noun; 16] = [
        Self::Tenant,
        Self::Project,
        Self::Host,
        Self::Pool,
        Self::Network,
        Self::SecurityGroup,
        Self::Router,
        Self::Image,
        Self::Volume,
        Self::Vm,
        Self::Agent,
        Self::Server,
        Self::Secret,
        Self::Provider,
        Self::Deployment,
        Self::Task,
    ];

    /// The word in `?kinds=` and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Project => "project",
            Self::Host => "host",
            Self::Pool => "pool",
            Self::Network => "network",
            Self::SecurityGroup => "security_group",
            Self::Router => "router",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Vm => "vm",
            Self::Agent => "agent",
            Self::Server => "server",
            Self::Secret => "secret",
            Self::Provider => "provider",
            Self::Deployment => "deployment",
            Self::Task => "task",
        }
    }

    /// Reads [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|n| n.as_str() == text)
    }
}

/// An object that a change was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Touched {
    /// Its kind.
    pub noun: Noun,
    /// Its id.
    pub id: Uuid,
    /// Its tenant, if it has one.
    pub tenant_id: Option<TenantId>,
    /// Its project, if it has one.
    pub project_id: Option<ProjectId>,
}

impl Touched {
    /// Where one must be allowed to read in order to see it.
    pub fn scope(&self) -> Scope {
        match (self.noun, self.tenant_id, self.project_id) {
            (Noun::Tenant, ..) => Scope::Tenant { tenant_id: TenantId(self.id) },
            (Noun::Project, Some(tenant_id), _) => {
                Scope::Project { tenant_id, project_id: ProjectId(self.id) }
            }
            (_, Some(tenant_id), Some(project_id)) => Scope::Project { tenant_id, project_id },
            (_, Some(tenant_id), None) => Scope::Tenant { tenant_id },
            (_, None, _) => Scope::System,
        }
    }
}

/// An object as it stood at one moment; written out only when somebody reads it.
#[derive(Clone, Debug)]
pub enum Object {
    /// A tenant.
    Tenant(Arc<Tenant>),
    /// A project.
    Project(Arc<Project>),
    /// A host.
    Host(Arc<Host>, Option<Arc<HostFactsRow>>, Demand, Option<Arc<Conditions>>, Option<DateTime>),
    /// A pool.
    Pool(Arc<Pool>),
    /// A network and the addresses given out.
    Network(Arc<Network>, u64, Option<Arc<Conditions>>),
    /// A security group.
    SecurityGroup(Arc<SecurityGroup>),
    /// A router and its hosts.
    Router(Arc<Router>, Vec<RouterPlacement>, Option<Arc<Conditions>>),
    /// An image.
    Image(Arc<Image>, Option<Arc<ImageFacts>>),
    /// A volume.
    Volume(Arc<Volume>, Option<Arc<VolumeFacts>>, Option<Arc<Conditions>>),
    /// A virtual machine.
    Vm(Arc<Vm>, Option<Arc<Placement>>, Option<Arc<VmFacts>>, Option<Arc<Conditions>>),
    /// An agent, server, secret, provider or deployment.
    Registered(Registered),
    /// A task.
    Task(Arc<Task>),
}

fn list(conditions: Option<Arc<Conditions>>) -> Vec<basalt_model::Condition> {
    conditions.map(|c| c.conditions.clone()).unwrap_or_default()
}

impl Object {
    /// The object as `GET` shows it.
    pub fn json(self) -> serde_json::Result<serde_json::Value> {
        use serde_json::to_value;
        match self {
            Self::Tenant(t) => to_value(crate::tenants::view(Arc::unwrap_or_clone(t))),
            Self::Project(p) => to_value(crate::projects::view(Arc::unwrap_or_clone(p))),
            Self::Host(host, facts, claimed, conditions, seen_at) => to_value(crate::hosts::view(HostView {
                seen_at,
                facts: facts.map(|f| f.facts.clone()),
                host: Arc::unwrap_or_clone(host),
                claimed,
                conditions: list(conditions),
            })),
            Self::Pool(p) => to_value(crate::pools::view(Arc::unwrap_or_clone(p))),
            Self::Network(n, addresses_used, conditions) => to_value(crate::networks::view(NetworkView {
                network: Arc::unwrap_or_clone(n),
                addresses_used,
                conditions: list(conditions),
            })),
            Self::SecurityGroup(g) => to_value(crate::security_groups::view(Arc::unwrap_or_clone(g))),
            Self::Router(r, placements, conditions) => to_value(crate::routers::view(RouterView {
                router: Arc::unwrap_or_clone(r),
                placements,
                conditions: list(conditions),
            })),
            Self::Image(i, facts) => match facts {
                Some(facts) => to_value(crate::images::view(ImageView {
                    image: Arc::unwrap_or_clone(i),
                    facts: Arc::unwrap_or_clone(facts),
                })),
                None => to_value(crate::images::awaited(Arc::unwrap_or_clone(i))),
            },
            Self::Volume(v, facts, conditions) => to_value(crate::volumes::view(VolumeView {
                volume: Arc::unwrap_or_clone(v),
                facts: facts.map(Arc::unwrap_or_clone),
                conditions: list(conditions),
            })),
            Self::Vm(vm, placement, facts, conditions) => to_value(crate::vms::view(VmView {
                vm: Arc::unwrap_or_clone(vm),
                placement: placement.map(Arc::unwrap_or_clone),
                facts: facts.map(Arc::unwrap_or_clone),
                conditions: list(conditions),
            })),
            Self::Registered(r) => r.json(),
            Self::Task(t) => to_value(&*t),
        }
    }
}

/// JSON that is written once; a change of the object puts an empty one in its place.
pub type Written = Arc<OnceLock<Box<str>>>;

/// Every row that watchers and answers need.
#[derive(Default)]
pub struct Rows {
    tenants: BTreeMap<Uuid, Arc<Tenant>>,
    projects: BTreeMap<Uuid, Arc<Project>>,
    hosts: BTreeMap<Uuid, Arc<Host>>,
    host_facts: HashMap<Uuid, Arc<HostFactsRow>>,
    /// The same facts as placement wants them: shared, so that looking at all hosts copies none.
    shared_facts: HashMap<Uuid, Arc<hosts::HostFacts>>,
    host_claims: HashMap<Uuid, Arc<HostClaim>>,
    pools: BTreeMap<Uuid, Arc<Pool>>,
    networks: BTreeMap<Uuid, Arc<Network>>,
    security_groups: BTreeMap<Uuid, Arc<SecurityGroup>>,
    routers: BTreeMap<Uuid, Arc<Router>>,
    router_placements: BTreeMap<(Uuid, u8), RouterPlacement>,
    images: BTreeMap<Uuid, Arc<Image>>,
    image_facts: HashMap<Uuid, Arc<ImageFacts>>,
    volumes: BTreeMap<Uuid, Arc<Volume>>,
    volume_facts: HashMap<Uuid, Arc<VolumeFacts>>,
    vms: BTreeMap<Uuid, Arc<Vm>>,
    placements: HashMap<Uuid, Arc<Placement>>,
    vm_facts: HashMap<Uuid, Arc<VmFacts>>,
    conditions: HashMap<Uuid, Arc<Conditions>>,
    registry: Registry,
    tasks: BTreeMap<Uuid, Arc<Task>>,
    ended: VecDeque<Uuid>,
    certificates: HashMap<String, Arc<Certificate>>,
    /// Hosts that were proven dead, by the proof that stands.
    deaths: HashMap<String, HostId>,
    /// VMs as they are shown, written out when somebody first reads them as they are now.
    vm_texts: HashMap<Uuid, Written>,
    names: HashMap<(Noun, ProjectId, Name), Uuid>,
    addresses: HashMap<NetworkId, u64>,
    cached: HashMap<HostId, BTreeSet<ImageId>>,
}

impl Rows {
    /// Takes one change, and notes the objects that look different now.
    pub fn apply(&mut self, change: &Change, touched: &mut BTreeSet<Touched>) {
        let row = change.row.as_ref();
        match change.table {
            Table::Certificate => keep!(self.certificates, change.key.clone(), row, Row::Certificate),
            Table::HostDeath => match row {
                Some(Row::HostDeath(proof)) if proof.0.ended_at.is_none() => {
                    self.deaths.insert(change.key.clone(), proof.0.host_id);
                }
                _ => drop(self.deaths.remove(&change.key)),
            },
            Table::ManifestItem => self.manifest_item(&change.key, row),
            Table::RouterPlacement => self.router_placement(change, touched),
            Table::Manifest | Table::ManifestFact | Table::Migration | Table::Drain => {}
            _ => {
                let Ok(id) = Uuid::parse_str(&change.key) else { return };
                if matches!(change.table, Table::Vm | Table::Router) {
                    let networks = self.count_addresses(id, row);
                    touched.extend(networks.iter().filter_map(|n| self.touched_network(*n)));
                }
                let Some(noun) = self.keep_row(change.table, id, row) else { return };
                if noun == Noun::Vm {
                    self.vm_texts.remove(&id);
                }
                let (tenant_id, project_id) = (change.tenant_id, change.project_id);
                touched.insert(Touched { noun, id, tenant_id, project_id });
            }
        }
    }

    fn touched_network(&self, id: NetworkId) -> Option<Touched> {
        let metadata = &self.networks.get(&id.0)?.metadata;
        let (tenant_id, project_id) = (metadata.tenant_id, metadata.project_id);
        Some(Touched { noun: Noun::Network, id: id.0, tenant_id, project_id })
    }

    fn keep_row(&mut self, table: Table, id: Uuid, row: Option<&Row>) -> Option<Noun> {
        self.before(table, id, row);
        macro_rules! kept {
            ($map:ident, $variant:ident, $noun:ident) => {{
                keep!(self.$map, id, row, Row::$variant);
                Noun::$noun
            }};
        }
        Some(match table {
            Table::Tenant => kept!(tenants, Tenant, Tenant),
            Table::Project => kept!(projects, Project, Project),
            Table::Host => kept!(hosts, Host, Host),
            Table::HostFacts => kept!(host_facts, HostFacts, Host),
            Table::HostClaim => kept!(host_claims, HostClaim, Host),
            Table::Pool => kept!(pools, Pool, Pool),
            Table::Network => kept!(networks, Network, Network),
            Table::SecurityGroup => kept!(security_groups, SecurityGroup, SecurityGroup),
            Table::Router => kept!(routers, Router, Router),
            Table::Image => kept!(images, Image, Image),
            Table::ImageFacts => kept!(image_facts, ImageFacts, Image),
            Table::Volume => kept!(volumes, Volume, Volume),
            Table::VolumeFacts => kept!(volume_facts, VolumeFacts, Volume),
            Table::Vm => kept!(vms, Vm, Vm),
            Table::Placement => kept!(placements, Placement, Vm),
            Table::VmFacts => kept!(vm_facts, VmFacts, Vm),
            Table::Task => kept!(tasks, Task, Task),
            Table::Conditions => {
                keep!(self.conditions, id, row, Row::Conditions);
                return self.noun_of(id);
            }
            _ => return self.registry.keep_row(table, id, row),
        })
    }

    /// Keeps what is derived from a row, while the row that it replaces is still there.
    fn before(&mut self, table: Table, id: Uuid, row: Option<&Row>) {
        match table {
            Table::Network => self.name(Noun::Network, id, row),
            Table::Image => self.name(Noun::Image, id, row),
            Table::Volume => self.name(Noun::Volume, id, row),
            Table::Task => self.forget_old_tasks(id, row),
            Table::HostFacts => match row {
                Some(Row::HostFacts(r)) => drop(self.shared_facts.insert(id, Arc::new(r.facts.clone()))),
                _ => drop(self.shared_facts.remove(&id)),
            },
            _ => {}
        }
    }

    fn noun_of(&self, id: Uuid) -> Option<Noun> {
        if self.vms.contains_key(&id) {
            Some(Noun::Vm)
        } else if self.hosts.contains_key(&id) {
            Some(Noun::Host)
        } else if self.volumes.contains_key(&id) {
            Some(Noun::Volume)
        } else if self.networks.contains_key(&id) {
            Some(Noun::Network)
        } else if self.routers.contains_key(&id) {
            Some(Noun::Router)
        } else if self.registry.has_deployment(id) {
            Some(Noun::Deployment)
        } else {
            None
        }
    }

    /// Keeps the index of names: what the row was called is forgotten, what it is called is found.
    fn name(&mut self, noun: Noun, id: Uuid, row: Option<&Row>) {
        let before = match noun {
            Noun::Network => self.networks.get(&id).map(|n| &n.metadata),
            Noun::Image => self.images.get(&id).map(|i| &i.metadata),
            _ => self.volumes.get(&id).map(|v| &v.metadata),
        };
        if let Some((project, name)) = before.and_then(|m| Some((m.project_id?, m.name.clone()))) {
            self.names.remove(&(noun, project, name));
        }
        let after = match row {
            Some(Row::Network(n)) => &n.metadata,
            Some(Row::Image(i)) => &i.metadata,
            Some(Row::Volume(v)) => &v.metadata,
            _ => return,
        };
        if let Some(project) = after.project_id {
            self.names.insert((noun, project, after.name.clone()), id);
        }
    }

    fn router_placement(&mut self, change: &Change, touched: &mut BTreeSet<Touched>) {
        let at =
            change.key.split_once('/').and_then(|(id, slot)| Some((id.parse().ok()?, slot.parse().ok()?)));
        let Some((id, slot)) = at else { return };
        match &change.row {
            Some(Row::RouterPlacement(row)) => {
                drop(self.router_placements.insert((id, slot), (**row).clone()))
            }
            _ => drop(self.router_placements.remove(&(id, slot))),
        }
        let (tenant_id, project_id) = (change.tenant_id, change.project_id);
        touched.insert(Touched { noun: Noun::Router, id, tenant_id, project_id });
    }

    /// Counts the addresses of a VM or a router, while the row that it replaces is still there. Gives the networks that have another
    /// number now.
    fn count_addresses(&mut self, id: Uuid, row: Option<&Row>) -> Vec<NetworkId> {
        let mut change: BTreeMap<NetworkId, i64> = BTreeMap::new();
        let of_vm = |vm: &Vm| vm.nics.iter().map(|n| n.network_id).collect::<Vec<_>>();
        let of_router = |router: &Router| {
            let each = |u: &RouterUplink| vec![u.network_id; 1 + router.wiring.floating_ips.len()];
            router.wiring.uplink.as_ref().map(each).unwrap_or_default()
        };
        let vm = self.vms.get(&id).map(|vm| of_vm(vm));
        for network in vm.or_else(|| self.routers.get(&id).map(|r| of_router(r))).unwrap_or_default() {
            *change.entry(network).or_default() -= 1;
        }
        let now = match row {
            Some(Row::Vm(vm)) => of_vm(vm),
            Some(Row::Router(router)) => of_router(router),
            _ => Vec::new(),
        };
        for network in now {
            *change.entry(network).or_default() += 1;
        }
        change.retain(|_, by| *by != 0);
        for (network, by) in &change {
            let used = self.addresses.entry(*network).or_default();
            *used = used.saturating_add_signed(*by);
        }
        change.into_keys().collect()
    }

    fn manifest_item(&mut self, key: &str, row: Option<&Row>) {
        let mut parts = key.split('/');
        let (Some(host), Some("image"), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
            return;
        };
        let (Ok(host), Ok(id)) = (host.parse::<HostId>(), id.parse::<ImageId>()) else { return };
        let images = self.cached.entry(host).or_default();
        match row {
            Some(Row::ManifestItem(r)) if r.item.present => drop(images.insert(id)),
            _ => drop(images.remove(&id)),
        }
    }

    /// An object as it stands.
    pub fn object(&self, noun: Noun, id: Uuid) -> Option<Object> {
        let conditions = || self.conditions.get(&id).cloned();
        Some(match noun {
            Noun::Tenant => Object::Tenant(self.tenants.get(&id)?.clone()),
            Noun::Project => Object::Project(self.projects.get(&id)?.clone()),
            Noun::Host => Object::Host(
                self.hosts.get(&id)?.clone(),
                self.host_facts.get(&id).cloned(),
                self.host_claims.get(&id).map(|c| c.claimed).unwrap_or_default(),
                conditions(),
                self.host_facts.get(&id).map(|f| f.reported_at),
            ),
            Noun::Pool => Object::Pool(self.pools.get(&id)?.clone()),
            Noun::Network => {
                let used = self.addresses.get(&NetworkId(id)).copied().unwrap_or_default();
                Object::Network(self.networks.get(&id)?.clone(), used, conditions())
            }
            Noun::SecurityGroup => Object::SecurityGroup(self.security_groups.get(&id)?.clone()),
            Noun::Router => {
                let at = self.router_placements.range((id, 0)..=(id, u8::MAX));
                Object::Router(
                    self.routers.get(&id)?.clone(),
                    at.map(|(_, p)| p.clone()).collect(),
                    conditions(),
                )
            }
            Noun::Image => Object::Image(self.images.get(&id)?.clone(), self.image_facts.get(&id).cloned()),
            Noun::Volume => Object::Volume(
                self.volumes.get(&id)?.clone(),
                self.volume_facts.get(&id).cloned(),
                conditions(),
            ),
            Noun::Vm => Object::Vm(
                self.vms.get(&id)?.clone(),
                self.placements.get(&id).cloned(),
                self.vm_facts.get(&id).cloned(),
                conditions(),
            ),
            Noun::Agent | Noun::Server | Noun::Secret | Noun::Provider | Noun::Deployment => {
                Object::Registered(self.registry.object(noun, id, conditions())?)
            }
            Noun::Task => Object::Task(self.tasks.get(&id)?.clone()),
        })
    }

    /// Every object of a noun.
    pub fn all(&self, noun: Noun) -> Vec<Touched> {
        let of = |m: &basalt_model::Metadata| Touched {
            noun,
            id: m.id,
            tenant_id: m.tenant_id,
            project_id: m.project_id,
        };
        match noun {
            Noun::Tenant => self.tenants.values().map(|t| of(&t.metadata)).collect(),
            Noun::Project => self.projects.values().map(|p| of(&p.metadata)).collect(),
            Noun::Host => self.hosts.values().map(|h| of(&h.metadata)).collect(),
            Noun::Pool => self
                .pools
                .keys()
                .map(|id| Touched { noun, id: *id, tenant_id: None, project_id: None })
                .collect(),
            Noun::Network => self.networks.values().map(|n| of(&n.metadata)).collect(),
            Noun::SecurityGroup => self.security_groups.values().map(|g| of(&g.metadata)).collect(),
            Noun::Router => self.routers.values().map(|r| of(&r.metadata)).collect(),
            Noun::Image => self.images.values().map(|i| of(&i.metadata)).collect(),
            Noun::Volume => self.volumes.values().map(|v| of(&v.metadata)).collect(),
            Noun::Vm => self.vms.values().map(|v| of(&v.metadata)).collect(),
            Noun::Agent | Noun::Server | Noun::Secret | Noun::Provider | Noun::Deployment => {
                self.registry.all(noun)
            }
            Noun::Task => self
                .tasks
                .values()
                .filter(|t| !t.state.is_terminal())
                .map(|t| Touched { noun, id: t.id.0, tenant_id: t.tenant_id, project_id: t.project_id })
                .collect(),
        }
    }

    /// Only the last tasks that ended are remembered, for watchers that resume.
    fn forget_old_tasks(&mut self, id: Uuid, row: Option<&Row>) {
        if matches!(row, Some(Row::Task(t)) if t.state.is_terminal()) {
            self.ended.push_back(id);
            if self.ended.len() > ENDED_TASKS
                && let Some(old) = self.ended.pop_front()
            {
                self.tasks.remove(&old);
            }
        }
    }

    /// A VM at exactly a generation, and where its JSON is kept. What its host reported is as new as
    /// the feed.
    pub fn vm_at(&mut self, id: VmId, generation: Generation) -> Option<(Written, Object)> {
        let object = self.object(Noun::Vm, id.0)?;
        let current = self.vms.get(&id.0)?.metadata.generation == generation;
        current.then(|| (self.vm_texts.entry(id.0).or_default().clone(), object))
    }

    /// The VM that a project's port belongs to, and where it was put.
    pub fn port(&self, project: ProjectId, id: PortId) -> Option<(Arc<Vm>, Option<Arc<Placement>>)> {
        let has = |vm: &&Arc<Vm>| {
            vm.metadata.project_id == Some(project) && vm.nics.iter().any(|nic| nic.port_id == id)
        };
        let vm = self.vms.values().find(has)?;
        Some((vm.clone(), self.placements.get(&vm.metadata.id).cloned()))
    }

    /// A certificate by its serial number.
    pub fn certificate(&self, serial: &str) -> Option<Arc<Certificate>> {
        self.certificates.get(serial).cloned()
    }

    /// Whether a host was given up for dead, and has not come back.
    pub fn is_proven_dead(&self, id: HostId) -> bool {
        self.deaths.values().any(|host| *host == id)
    }

    /// A host.
    pub fn host(&self, id: HostId) -> Option<Arc<Host>> {
        self.hosts.get(&id.0).cloned()
    }

    /// An image of a project by name, with what was seen of it.
    pub fn image(&self, project: ProjectId, name: &Name) -> Option<(Arc<Image>, Option<Arc<ImageFacts>>)> {
        let id = self.names.get(&(Noun::Image, project, name.clone()))?;
        Some((self.images.get(id)?.clone(), self.image_facts.get(id).cloned()))
    }

    /// A network of a project by name.
    pub fn network(&self, project: ProjectId, name: &Name) -> Option<Arc<Network>> {
        self.networks.get(self.names.get(&(Noun::Network, project, name.clone()))?).cloned()
    }

    /// A volume of a project by name.
    pub fn volume(&self, project: ProjectId, name: &Name) -> Option<Arc<Volume>> {
        self.volumes.get(self.names.get(&(Noun::Volume, project, name.clone()))?).cloned()
    }

    /// What a VM that is there asks of a host, its volumes where they are.
    pub fn request_of(&self, vm: &Vm) -> placement::Request {
        let volumes = vm.disks.iter().filter_map(|d| self.volumes.get(&d.volume_id?.0));
        let networks = vm.nics.iter().filter_map(|n| self.networks.get(&n.network_id.0));
        let mut request = placement::Request {
            cpus: vm.spec.cpus,
            memory_bytes: vm.spec.memory_bytes,
            firmware: vm.spec.firmware,
            images: vm.disks.iter().filter_map(|d| d.iso_image_id).collect(),
            segments: networks.map(|n| n.spec.segment.clone()).collect(),
            rules: vm.spec.placement.clone(),
            labels: vm.metadata.labels.clone(),
            shared_storage: vm.spec.ha.restarts(),
            ..Default::default()
        };
        for volume in volumes {
            request.images.extend(volume.image_id);
            request.volumes.push(placement::VolumeRequest {
                name: volume.metadata.name.clone(),
                size_bytes: volume.spec.size_bytes,
                pool: volume.spec.pool.clone(),
                bound: volume.host_id.zip(volume.pool.clone()),
            });
        }
        request
    }

    /// What a VM of a project that is to be placed has to do with those that are.
    pub fn neighbours(&self, project: ProjectId, request: &placement::Request) -> Neighbours {
        self.neighbours_of(project, request, None)
    }

    /// The same of a VM that is placed: it is not its own neighbour.
    pub fn neighbours_of(
        &self,
        project: ProjectId,
        request: &placement::Request,
        vm: Option<VmId>,
    ) -> Neighbours {
        let other = |id: Uuid| vm.is_none_or(|vm| vm.0 != id);
        let placed = self
            .vms
            .values()
            .filter(|vm| vm.metadata.project_id == Some(project) && other(vm.metadata.id))
            .filter_map(|vm| {
                let host = self.placements.get(&vm.metadata.id)?.host_id?;
                Some((host, Peer::of(&vm.metadata.name, &vm.metadata.labels, &vm.spec.placement)?))
            });
        let placed: Vec<_> = placed.collect();
        Neighbours::of(request, placed.iter().map(|(host, peer)| (*host, peer)))
    }

    /// The VMs that are on a host, but for those that are being deleted.
    pub fn leavers(&self, host: HostId) -> Vec<Leaver> {
        self.guests().into_iter().filter(|g| g.host_id == host).map(|g| g.leaver).collect()
    }

    /// All placed VMs, as a question about what would happen sees them.
    pub fn guests(&self) -> Vec<Guest> {
        let network = |id: NetworkId| {
            let found = self.networks.get(&id.0);
            found.map_or_else(|| id.to_string(), |n| n.metadata.name.to_string())
        };
        let guest = |vm: &Arc<Vm>| {
            Some(Guest {
                host_id: self.placements.get(&vm.metadata.id)?.host_id?,
                leaver: Leaver {
                    vm_id: VmId(vm.metadata.id),
                    vm: vm.metadata.name.clone(),
                    project_id: vm.metadata.project_id?,
                    power: vm.spec.power,
                    request: self.request_of(vm),
                },
                restarts: vm.spec.ha.restarts(),
                networks: vm.nics.iter().map(|n| network(n.network_id)).collect(),
            })
        };
        let stays = |vm: &&Arc<Vm>| vm.metadata.deletion_requested_at.is_none();
        self.vms.values().filter(stays).filter_map(guest).collect()
    }

    /// All placed VMs that rules of others may mean.
    pub fn placed_vms(&self) -> Vec<Placed> {
        let placed = |vm: &Arc<Vm>| {
            Some(Placed {
                vm_id: VmId(vm.metadata.id),
                project_id: vm.metadata.project_id?,
                host_id: self.placements.get(&vm.metadata.id)?.host_id?,
                peer: Peer::of(&vm.metadata.name, &vm.metadata.labels, &vm.spec.placement)?,
            })
        };
        self.vms.values().filter_map(placed).collect()
    }

    /// Hosts as placement sees them. `seen` is the last sign of life that this gateway had.
    pub fn placement_hosts(
        &self,
        seen: impl Fn(HostId) -> Option<DateTime>,
        now: DateTime,
    ) -> Vec<placement::HostView> {
        let mut pools: HashMap<HostId, BTreeMap<Name, u64>> = HashMap::new();
        for pool in self.pools.values() {
            pools.entry(pool.host_id).or_default().insert(pool.facts.name.clone(), pool.claimed_bytes);
        }
        let view = |host: &Arc<Host>| {
            let id = HostId(host.metadata.id);
            let facts = self.host_facts.get(&id.0);
            let removed = host.metadata.deletion_requested_at.is_some();
            let seen_at = seen(id).max(facts.map(|f| f.reported_at));
            placement::HostView {
                id,
                name: host.metadata.name.clone(),
                labels: host.metadata.labels.clone(),
                spec: host.spec.clone(),
                state: hosts::state(&host.spec, facts.map(|f| &f.facts), seen_at, removed, now),
                facts: self.shared_facts.get(&id.0).cloned(),
                claimed: self.host_claims.get(&id.0).map(|c| c.claimed).unwrap_or_default(),
                pool_claims: pools.remove(&id).unwrap_or_default(),
                cached_images: self.cached.get(&id).cloned().unwrap_or_default(),
            }
        };
        self.hosts.values().map(view).collect()
    }
}
