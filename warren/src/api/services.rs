//! How services come into the store and change there. Everything a request may not do is refused
//! before anything is stored.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tonic::Status;

use super::{Control, control::find, error};
use crate::{
    ipam,
    model::{Id, PortSpec, Protocol, Service, ServiceId, ServiceSpec, Timestamp, validate},
    proto::v1,
    store::{Tx, View},
};

/// The spec of a request, by the rules.
pub(super) fn spec_of(spec: Option<v1::ServiceSpec>) -> Result<ServiceSpec, Status> {
    let spec = spec.ok_or_else(|| Status::invalid_argument("the request has no service"))?;
    let spec = ServiceSpec::try_from(spec).map_err(|e| Status::invalid_argument(e.to_string()))?;
    check(&spec)?;
    Ok(spec)
}

fn check(spec: &ServiceSpec) -> Result<(), Status> {
    validate::service(spec).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Why other services keep these ports from being published, if they do.
fn port_conflict(view: &View, of: ServiceId, ports: &[PortSpec]) -> Option<String> {
    let others = || view.services().filter(|s| s.id != of);
    let taken: usize = others().map(|s| s.spec.publish.len()).sum();
    if taken + ports.len() > validate::MAX_PORTS {
        return Some(format!(
            "the cluster has {taken} published ports already and room for {}: remove some first",
            validate::MAX_PORTS
        ));
    }
    let own = ports.iter().map(|p| &p.from);
    let sets: BTreeSet<&Vec<IpNet>> =
        others().flat_map(|s| &s.spec.publish).map(|p| &p.from).chain(own).collect();
    let sources: usize = sets.iter().map(|set| set.len()).sum();
    if sources > validate::MAX_ALL_SOURCES {
        return Some(format!(
            "the cluster's published ports would have {sources} networks in from= and there is room for {}: use wider ones, or the same for several ports",
            validate::MAX_ALL_SOURCES
        ));
    }
    others().find_map(|other| {
        let (p, _) = validate::conflict(ports, &other.spec.publish)?;
        let name = &other.spec.name;
        let cure = if other.removing {
            "which is being removed: try again when it is gone".to_owned()
        } else {
            format!("choose another port or remove that service (`warren service rm {name}`)")
        };
        let (published, protocol) = (p.published, p.protocol);
        Some(format!("port {published}/{protocol} is already published by service {name}; {cure}"))
    })
}

/// Why the nodes could not keep count of a service's clients besides those of others, if so.
fn limits_are_too_many(view: &View, of: ServiceId, spec: &ServiceSpec) -> Option<String> {
    if !spec.limits.any() {
        return None;
    }
    let taken = view.services().filter(|s| s.id != of && s.spec.limits.any()).count();
    (taken >= validate::MAX_LIMITED).then(|| {
        format!(
            "the cluster has {taken} services with limits per client already and room for {}: lift those of another one first",
            validate::MAX_LIMITED
        )
    })
}

/// Why a service cannot be beside the others, if it cannot.
fn obstacle(view: &View, of: ServiceId, spec: &ServiceSpec) -> Option<String> {
    port_conflict(view, of, &spec.publish).or_else(|| limits_are_too_many(view, of, spec))
}

/// What ports that were left open are chosen by.
#[derive(Clone)]
struct Choice {
    /// Where the search begins: anywhere, so that a port which was just given up does not go to the
    /// next service at once.
    start: u16,
    /// Where processes of the node listen.
    listening: BTreeSet<(Protocol, u16)>,
}

impl Choice {
    /// Gives the open ports of a service a number.
    fn number(&self, view: &View, service: &Service, spec: &mut ServiceSpec) -> Result<(), Status> {
        let others = || view.services().filter(|s| s.id != service.id).flat_map(|s| &s.spec.publish);
        let free = PortSpec::FREE;
        // Only these can be in the way; there may be thousands of others.
        let near: Vec<&PortSpec> = others().filter(|p| free.contains(&p.published)).collect();
        let taken = |p: &PortSpec| {
            self.listening.contains(&(p.protocol, p.published)) || near.iter().any(|o| o.conflicts(p))
        };
        if ipam::ports::number(&mut spec.publish, &service.spec.publish, self.start, taken) {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "no port of {} to {} is free any more: name one, as in --publish 8080:80",
            free.start(),
            free.end()
        )))
    }
}

fn is_leaving(service: &Service, verb: &str) -> Result<(), Status> {
    if service.removing {
        let name = &service.spec.name;
        return Err(Status::failed_precondition(format!(
            "service {name} is being removed and cannot be {verb}"
        )));
    }
    Ok(())
}

impl Control {
    /// Whether the node itself has what these ports need: the address, and nobody who listens.
    async fn host_has(&self, ports: impl Iterator<Item = &PortSpec>) -> Result<(), Status> {
        let ports: Vec<PortSpec> = ports.cloned().collect();
        for port in &ports {
            if let Some(address) = port.host_ip.filter(|a| !self.host_ports.has_address(*a)) {
                return Err(Status::failed_precondition(format!(
                    "cannot publish {port}: this node has no address {address}; choose one that `ip address` shows, or leave it away"
                )));
            }
        }
        let numbered = ports.into_iter().filter(|p| p.published != 0).collect();
        match self.host_ports.owner(numbered).await {
            None => Ok(()),
            Some((port, owner)) => Err(Status::failed_precondition(format!(
                "port {}/{} is in use on this node by {owner}: choose another port or stop that process",
                port.published, port.protocol
            ))),
        }
    }

    async fn choice(&self, ports: &[PortSpec]) -> Choice {
        let listening = if ports.iter().any(|p| p.published == 0) {
            self.host_ports.listening().await
        } else {
            BTreeSet::new()
        };
        Choice { start: rand::random(), listening }
    }

    /// Stores a new service.
    pub(super) async fn create(&self, spec: ServiceSpec, now: Timestamp) -> Result<Service, Status> {
        self.host_has(spec.publish.iter()).await?;
        let choice = self.choice(&spec.publish).await;
        let service = Service {
            id: Id::from_random(rand::random()),
            version: 0,
            spec_version: 1,
            datapath_id: 0,
            spec,
            previous: None,
            removing: false,
            created_at: now,
        };
        let stored = self
            .store
            .update(|tx| {
                if let Some(taken) = tx.service_by_name(&service.spec.name) {
                    let cure = if taken.removing {
                        "it is being removed: try again when it is gone"
                    } else {
                        "choose another name or remove that one"
                    };
                    return Err(Status::already_exists(format!(
                        "a service called {} exists already; {cure}",
                        service.spec.name
                    )));
                }
                let mut service = service.clone();
                let mut spec = service.spec.clone();
                choice.number(tx, &service, &mut spec)?;
                service.spec = spec;
                if let Some(why) = obstacle(tx, service.id, &service.spec) {
                    return Err(Status::failed_precondition(why));
                }
                tx.put_service(service.clone());
                Ok(service)
            })
            .await
            .map_err(error::update)?;
        // It can be gone again already: then what was asked for is the answer.
        Ok(self.store.view().service(stored.id).map_or(stored, |s| s.clone()))
    }

    /// Replaces a service's spec, if it still has the version that was read.
    pub(super) async fn update(&self, request: v1::UpdateServiceRequest) -> Result<Service, Status> {
        let v1::UpdateServiceRequest { service: asked, version, spec, registry_auth } = request;
        let asked = asked.as_str();
        let mut spec = spec_of(spec)?;
        let view = self.view().await?;
        let before = find(&view, asked)?;
        // Of this version's: with another one nothing is stored.
        self.seal_auth(&mut spec, registry_auth, before.spec.task.registry_auth.as_ref())?;
        self.host_has(spec.publish.iter().filter(|p| !before.spec.publish.contains(p))).await?;
        let choice = self.choice(&spec.publish).await;
        let changed = self
            .store
            .update(|tx| {
                let service = find(tx, asked)?.clone();
                is_leaving(&service, "changed")?;
                if service.version != version || before.version != version {
                    return Err(Status::aborted(format!(
                        "service {asked} was changed by someone else meanwhile: look at it and try again"
                    )));
                }
                if service.spec.name != spec.name {
                    return Err(Status::invalid_argument(format!(
                        "service {} cannot be renamed: create another one",
                        service.spec.name
                    )));
                }
                let mut spec = spec.clone();
                choice.number(tx, &service, &mut spec)?;
                replace(tx, service, spec)
            })
            .await
            .map_err(error::update)?;
        Ok(self.store.view().service(changed.id).map_or(changed, |s| s.clone()))
    }

    /// Returns the service called `asked` to its spec before the last update.
    pub(super) async fn rollback(&self, asked: &str) -> Result<Service, Status> {
        let view = self.view().await?;
        let before = find(&view, asked)?;
        let ports = before.previous.iter().flat_map(|p| &p.publish);
        self.host_has(ports.filter(|p| !before.spec.publish.contains(p))).await?;
        let changed = self
            .store
            .update(|tx| {
                let service = find(tx, asked)?.clone();
                is_leaving(&service, "rolled back")?;
                let Some(previous) = service.previous.clone() else {
                    return Err(Status::failed_precondition(format!(
                        "service {asked} was never updated: there is nothing to return to"
                    )));
                };
                check(&previous)?;
                replace(tx, service, previous)
            })
            .await
            .map_err(error::update)?;
        Ok(self.store.view().service(changed.id).map_or(changed, |s| s.clone()))
    }

    /// Sets the number of replicas of the service called `asked`.
    pub(super) async fn scale(&self, asked: &str, replicas: u32) -> Result<Service, Status> {
        let changed = self
            .store
            .update(|tx| {
                let mut service = find(tx, asked)?.clone();
                is_leaving(&service, "scaled")?;
                service.spec.replicas = replicas;
                // A rollback is about what was updated: it leaves the number as it was set last.
                if let Some(previous) = &mut service.previous {
                    previous.replicas = replicas;
                }
                check(&service.spec)?;
                tx.put_service(service.clone());
                Ok(service)
            })
            .await
            .map_err(error::update)?;
        Ok(self.store.view().service(changed.id).map_or(changed, |s| s.clone()))
    }
}

/// Gives `service` another spec and remembers the one it had. The same one is no change.
fn replace(tx: &mut Tx, mut service: Service, spec: ServiceSpec) -> Result<Service, Status> {
    if service.spec == spec {
        return Ok(service);
    }
    if let Some(why) = obstacle(tx, service.id, &spec) {
        return Err(Status::failed_precondition(why));
    }
    service.previous = Some(std::mem::replace(&mut service.spec, spec));
    service.spec_version += 1;
    tx.put_service(service.clone());
    Ok(service)
}
