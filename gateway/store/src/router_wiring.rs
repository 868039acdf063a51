//! What a router's names come to: networks and VMs looked up and held, addresses of the uplink's network allocated.

use crate::{
    Change, Error, Result,
    error::{named, refused},
    row,
    vm_insert::mac,
};
use basalt_model::{
    FieldError, Name, NetworkId, PortId, ProjectId, RouterId, TenantId, VmId,
    networks::NetworkSpec,
    routers::{
        FloatingTarget, ForwardTarget, RouterInterface, RouterSpec, RouterUplink, RouterWiring, gateway_mac,
    },
    vms::VmNic,
};
use sqlx::{PgConnection, Row};
use std::{collections::BTreeMap, net::Ipv4Addr};
use uuid::Uuid;

/// What a router wants, with all names looked up and no address allocated yet.
pub(crate) struct Wanted {
    pub(crate) interfaces: Vec<RouterInterface>,
    uplink: Option<(NetworkId, Name, Option<Ipv4Addr>)>,
    floating: Vec<(VmId, Ipv4Addr, Option<Ipv4Addr>)>,
    port_forwards: Vec<ForwardTarget>,
}

struct FoundNetwork {
    id: NetworkId,
    spec: NetworkSpec,
    vni: u32,
}

/// Looks up all names, and keeps what they name from going until this transaction ends.
pub(crate) async fn resolve(
    conn: &mut PgConnection,
    project: ProjectId,
    spec: &RouterSpec,
) -> Result<Wanted> {
    let networks = networks(conn, project, spec).await?;
    let vms = vms(conn, project, spec).await?;
    let of = |name: &Name, field: String| {
        networks.get(name).ok_or_else(|| Error::ReferenceNotFound {
            kind: "network",
            name: name.clone(),
            field,
        })
    };
    let mut interfaces = Vec::new();
    for (i, name) in spec.networks.iter().enumerate() {
        let network = of(name, format!("spec.networks[{i}]"))?;
        interfaces.push(RouterInterface {
            network_id: network.id,
            network: name.clone(),
            address: network.spec.gateway(),
            mac: gateway_mac(network.vni),
        });
    }
    let uplink = match &spec.uplink {
        None => None,
        Some(uplink) => {
            let network = of(&uplink.network, "spec.uplink.network".into())?;
            if let Some(address) = uplink.address {
                assignable(network, &uplink.network, address, "spec.uplink.address".into())?;
            }
            Some((network.id, uplink.network.clone(), uplink.address))
        }
    };
    check_routes(spec, &networks)?;
    let inside = |vm: &Name, field: String| -> Result<(VmId, Ipv4Addr)> {
        let missing = Error::ReferenceNotFound { kind: "vm", name: vm.clone(), field: field.clone() };
        let (id, nics) = vms.get(vm).ok_or(missing)?;
        let nic = nics.iter().find(|n| interfaces.iter().any(|i| i.network_id == n.network_id));
        nic.map(|n| (*id, n.address)).ok_or_else(|| outside(vm, field))
    };
    let mut port_forwards = Vec::new();
    for (i, forward) in spec.port_forwards.iter().enumerate() {
        let (vm_id, to_address) = inside(&forward.vm, format!("spec.port_forwards[{i}].vm"))?;
        let (protocol, port, to_port) = (forward.protocol, forward.port, forward.to_port);
        port_forwards.push(ForwardTarget { protocol, port, vm_id, to_address, to_port });
    }
    let mut floating = Vec::new();
    for (i, wanted) in spec.floating_ips.iter().enumerate() {
        let (vm_id, to_address) = inside(&wanted.vm, format!("spec.floating_ips[{i}].vm"))?;
        if let (Some(address), Some((_, name, _))) = (wanted.address, &uplink) {
            let field = format!("spec.floating_ips[{i}].address");
            assignable(of(name, field.clone())?, name, address, field)?;
        }
        floating.push((vm_id, to_address, wanted.address));
    }
    Ok(Wanted { interfaces, uplink, floating, port_forwards })
}

async fn networks(
    conn: &mut PgConnection,
    project: ProjectId,
    spec: &RouterSpec,
) -> Result<BTreeMap<Name, FoundNetwork>> {
    let uplink = spec.uplink.iter().map(|u| &u.network);
    let names: Vec<&str> = spec.networks.iter().chain(uplink).map(Name::as_str).collect();
    let rows = sqlx::query(
        "SELECT id, name, spec, vni, deletion_requested_at IS NOT NULL AS going FROM networks
         WHERE project_id = $1 AND name = ANY($2) ORDER BY id FOR SHARE",
    )
    .bind(project)
    .bind(names)
    .fetch_all(conn)
    .await?;
    let mut found = BTreeMap::new();
    for row in &rows {
        let name: Name = row.try_get("name")?;
        if row.try_get("going")? {
            return Err(Error::Deleting { kind: "network", name: name.to_string() });
        }
        let vni = u32::try_from(row.try_get::<i32, _>("vni")?).map_err(|e| row::unreadable("vni", e))?;
        found.insert(name, FoundNetwork { id: row.try_get("id")?, spec: row::json(row, "spec")?, vni });
    }
    Ok(found)
}

type FoundVms = BTreeMap<Name, (VmId, Vec<VmNic>)>;

async fn vms(conn: &mut PgConnection, project: ProjectId, spec: &RouterSpec) -> Result<FoundVms> {
    let floating = spec.floating_ips.iter().map(|f| f.vm.as_str());
    let names: Vec<&str> = spec.port_forwards.iter().map(|f| f.vm.as_str()).chain(floating).collect();
    if names.is_empty() {
        return Ok(FoundVms::new());
    }
    let rows = sqlx::query(
        "SELECT id, name, nics, deletion_requested_at IS NOT NULL AS going FROM vms
         WHERE project_id = $1 AND name = ANY($2) ORDER BY id FOR SHARE",
    )
    .bind(project)
    .bind(names)
    .fetch_all(conn)
    .await?;
    let mut found = FoundVms::new();
    for row in &rows {
        let name: Name = row.try_get("name")?;
        if row.try_get("going")? {
            return Err(Error::Deleting { kind: "vm", name: name.to_string() });
        }
        found.insert(name, (row.try_get("id")?, row::json(row, "nics")?));
    }
    Ok(found)
}

fn assignable(network: &FoundNetwork, name: &Name, address: Ipv4Addr, field: String) -> Result<()> {
    match network.spec.assignable(address) {
        true => Ok(()),
        false => Err(Error::AddressOutside { address, network: name.clone(), field }),
    }
}

fn check_routes(spec: &RouterSpec, networks: &BTreeMap<Name, FoundNetwork>) -> Result<()> {
    let mut errors = Vec::new();
    for (i, route) in spec.routes.iter().enumerate() {
        let near = networks.iter().find(|(_, n)| n.spec.cidr.contains(&route.next_hop));
        let field = format!("spec.routes[{i}].next_hop");
        let names = networks.iter().map(|(name, n)| format!("{name} ({})", n.spec.cidr)).collect::<Vec<_>>();
        match near {
            None => errors.push(FieldError::new(
                field,
                "outside",
                format!("{} is in none of the router's networks", route.next_hop),
                format!("name an address in one of {}", names.join(", ")),
            )),
            Some((name, n)) if spec.networks.contains(name) && n.spec.gateway() == route.next_hop => {
                errors.push(FieldError::new(
                    field,
                    "own_address",
                    format!("{} is the router's own address in {name}", route.next_hop),
                    "name the address of another router",
                ));
            }
            Some(_) => {}
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

fn outside(vm: &Name, field: String) -> Error {
    Error::Invalid(vec![FieldError::new(
        field,
        "not_inside",
        format!("VM {vm} has no interface in one of the router's networks"),
        "name a VM of these networks, or add its network to the router",
    )])
}

/// A network that another router has.
pub(crate) fn has_router(i: usize, network: &Name, by: &str) -> Error {
    Error::Invalid(vec![FieldError::new(
        format!("spec.networks[{i}]"),
        "has_router",
        format!("network {network} has a router already: {by}"),
        "take the network out of that router first, or name another network",
    )])
}

/// Addresses that a router has and goes on to have.
#[derive(Default)]
pub(crate) struct Kept {
    uplink: Option<RouterUplink>,
    floating: Vec<FloatingTarget>,
}

impl Kept {
    /// Their ports.
    pub(crate) fn ports(&self) -> Vec<Uuid> {
        let floating = self.floating.iter().map(|f| f.port_id.0);
        self.uplink.iter().map(|u| u.port_id.0).chain(floating).collect()
    }
}

impl Wanted {
    /// VMs that must stay while the router names them.
    pub(crate) fn vms(&self) -> impl Iterator<Item = VmId> + '_ {
        let floating = self.floating.iter().map(|f| f.0);
        self.port_forwards.iter().map(|f| f.vm_id).chain(floating)
    }

    /// What of the addresses is still wanted as it is.
    pub(crate) fn kept(&self, before: &RouterWiring) -> Kept {
        let (Some((network, _, address)), Some(had)) = (&self.uplink, &before.uplink) else {
            return Kept::default();
        };
        if had.network_id != *network {
            return Kept::default();
        }
        let same = |wanted: Option<Ipv4Addr>, has: Ipv4Addr| wanted.is_none_or(|w| w == has);
        let still = |f: &&FloatingTarget| {
            self.floating.iter().any(|(vm, _, wanted)| *vm == f.vm_id && same(*wanted, f.address))
        };
        Kept {
            uplink: Some(had.clone()).filter(|u| same(*address, u.address)),
            floating: before.floating_ips.iter().filter(still).cloned().collect(),
        }
    }
}

/// Gives back all that a tenant's router holds but the addresses of `kept` ports.
pub(crate) async fn release(conn: &mut PgConnection, id: RouterId, kept: &[Uuid]) -> Result<()> {
    sqlx::query(
        "WITH gone AS MATERIALIZED (SELECT network_id FROM release_router($1, $2))
         UPDATE address_cursors a SET used = used - g.n
         FROM (SELECT network_id, count(*) AS n FROM gone GROUP BY network_id) g WHERE a.network_id = g.network_id",
    )
    .bind(id)
    .bind(kept)
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives back all addresses of a router that is gone.
pub(crate) async fn release_all(conn: &mut PgConnection, id: RouterId) -> Result<()> {
    sqlx::query(
        "WITH gone AS (DELETE FROM ports WHERE router_id = $1 RETURNING network_id)
         UPDATE address_cursors a SET used = used - g.n
         FROM (SELECT network_id, count(*) AS n FROM gone GROUP BY network_id) g WHERE a.network_id = g.network_id",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Allocates what is not kept, wanted addresses first, so that none that is found free is wanted by another.
pub(crate) async fn allocate(
    conn: &mut PgConnection,
    change: &Change,
    (tenant, project, id): (TenantId, ProjectId, RouterId),
    wanted: &Wanted,
    kept: &Kept,
) -> Result<RouterWiring> {
    let mut wiring = RouterWiring {
        interfaces: wanted.interfaces.clone(),
        port_forwards: wanted.port_forwards.clone(),
        ..RouterWiring::default()
    };
    let Some((network_id, network, address)) = &wanted.uplink else { return Ok(wiring) };
    let owner = Owner { tenant, project, id, network_id: *network_id, network };
    let fixed: Vec<Ipv4Addr> =
        address.iter().copied().chain(wanted.floating.iter().filter_map(|f| f.2)).collect();
    wiring.uplink = Some(match &kept.uplink {
        Some(uplink) => uplink.clone(),
        None => {
            let port_id: PortId = change.id();
            let mac = mac(port_id);
            let field = "spec.uplink.address".to_owned();
            let address = owner.port(conn, port_id, Some(&mac), *address, &fixed, field).await?;
            RouterUplink { port_id, network_id: *network_id, network: network.clone(), address, mac }
        }
    });
    let mut floating: Vec<(usize, FloatingTarget)> = Vec::new();
    let (first, then): (Vec<_>, Vec<_>) =
        wanted.floating.iter().enumerate().partition(|(_, (_, _, address))| address.is_some());
    for (i, (vm_id, to_address, address)) in first.into_iter().chain(then) {
        let target = match kept.floating.iter().find(|f| f.vm_id == *vm_id) {
            Some(had) => FloatingTarget { to_address: *to_address, ..had.clone() },
            None => {
                let port_id: PortId = change.id();
                let field = format!("spec.floating_ips[{i}].address");
                let address = owner.port(conn, port_id, None, *address, &fixed, field).await?;
                FloatingTarget { port_id, address, vm_id: *vm_id, to_address: *to_address }
            }
        };
        floating.push((i, target));
    }
    floating.sort_by_key(|(i, _)| *i);
    wiring.floating_ips = floating.into_iter().map(|(_, target)| target).collect();
    Ok(wiring)
}

/// Whose an address is to be, and where.
struct Owner<'a> {
    tenant: TenantId,
    project: ProjectId,
    id: RouterId,
    network_id: NetworkId,
    network: &'a Name,
}

impl Owner<'_> {
    /// Claims an address under the network's lock, as VMs do.
    async fn port(
        &self,
        conn: &mut PgConnection,
        port: PortId,
        mac: Option<&str>,
        wanted: Option<Ipv4Addr>,
        spoken_for: &[Ipv4Addr],
        field: String,
    ) -> Result<Ipv4Addr> {
        let spoken_for: Vec<String> = spoken_for.iter().map(ToString::to_string).collect();
        let address: String = sqlx::query_scalar(
            "INSERT INTO ports (id, tenant_id, project_id, network_id, router_id, mac, address)
             VALUES ($1, $2, $3, $4, $5, $6, claim_address($4, $7::text::inet, $8::text[]::inet[])) RETURNING host(address)",
        )
        .bind(port)
        .bind(self.tenant)
        .bind(self.project)
        .bind(self.network_id)
        .bind(self.id)
        .bind(mac)
        .bind(wanted.map(|a| a.to_string()))
        .bind(spoken_for)
        .fetch_one(conn)
        .await
        .map_err(|e| self.words(e, wanted, field))?;
        address.parse().map_err(|e| row::unreadable("address", e).into())
    }

    fn words(&self, e: sqlx::Error, wanted: Option<Ipv4Addr>, field: String) -> Error {
        let network = self.network;
        if let Some(("ports_address", _)) = refused(&e)
            && let Some(address) = wanted
        {
            let (address, network) = (address.to_string(), network.to_string());
            return Error::AddressTaken { address, network, field };
        }
        named(e, |constraint| match constraint {
            "subnet_exhausted" => Some(Error::SubnetExhausted { network: network.clone(), field }),
            "network_closed" => Some(Error::Deleting { kind: "network", name: network.to_string() }),
            _ => None,
        })
    }
}
