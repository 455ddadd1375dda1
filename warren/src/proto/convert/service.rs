//! Services and their specs.

use std::time::Duration;

use super::{ConvertError, container, many, milliseconds, narrow, owned, parse, parse_net, required};
use crate::{
    model::{
        ClientLimits, PortSpec, Protocol, PublishMode, Rate, RestartCondition, RestartPolicy, Sealed,
        Service, ServiceSpec, TaskSpec, Timestamp,
    },
    proto::v1::{self, client_limits, port_spec, restart_policy::Condition, task_spec},
};

owned!(PortSpec, RestartPolicy, TaskSpec, ServiceSpec, Service);

impl From<&PortSpec> for v1::PortSpec {
    fn from(p: &PortSpec) -> Self {
        Self {
            host_ip: p.host_ip.map(|a| a.to_string()).unwrap_or_default(),
            published: p.published.into(),
            target: p.target.into(),
            protocol: p.protocol.number().into(),
            from: p.from.iter().map(ToString::to_string).collect(),
            mode: match p.mode {
                PublishMode::Ingress => port_spec::Mode::Ingress,
                PublishMode::Host => port_spec::Mode::Host,
            }
            .into(),
        }
    }
}

impl TryFrom<v1::PortSpec> for PortSpec {
    type Error = ConvertError;

    fn try_from(p: v1::PortSpec) -> Result<Self, ConvertError> {
        Ok(Self {
            host_ip: match p.host_ip.as_str() {
                "" => None,
                text => Some(parse_net("port.host_ip", text)?),
            },
            published: narrow("port.published", p.published)?,
            target: narrow("port.target", p.target)?,
            protocol: match p.protocol {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                n => {
                    let why = format_args!("{n} is neither TCP (6) nor UDP (17)");
                    return Err(ConvertError::new("port.protocol", why));
                }
            },
            from: p.from.iter().map(|net| parse_net("port.from", net)).collect::<Result<_, _>>()?,
            mode: match port_spec::Mode::try_from(p.mode) {
                Ok(port_spec::Mode::Ingress) => PublishMode::Ingress,
                Ok(port_spec::Mode::Host) => PublishMode::Host,
                Err(_) => {
                    let why = format_args!("{} is not a mode of publishing; update this node", p.mode);
                    return Err(ConvertError::new("port.mode", why));
                }
            },
        })
    }
}

impl From<ClientLimits> for v1::ClientLimits {
    fn from(l: ClientLimits) -> Self {
        let rate = |r: Rate| client_limits::Rate { per_second: r.per_second, burst: r.burst };
        Self { conn_rate: l.conn_rate.map(rate), packet_rate: l.packet_rate.map(rate), conns: l.conns }
    }
}

impl From<v1::ClientLimits> for ClientLimits {
    fn from(l: v1::ClientLimits) -> Self {
        let rate = |r: client_limits::Rate| Rate { per_second: r.per_second, burst: r.burst };
        Self { conn_rate: l.conn_rate.map(rate), packet_rate: l.packet_rate.map(rate), conns: l.conns }
    }
}

impl From<&RestartPolicy> for v1::RestartPolicy {
    fn from(r: &RestartPolicy) -> Self {
        let condition = match r.condition {
            RestartCondition::None => Condition::None,
            RestartCondition::OnFailure => Condition::OnFailure,
            RestartCondition::Any => Condition::Any,
        };
        Self {
            condition: condition.into(),
            delay_ms: milliseconds(r.delay),
            max_attempts: r.max_attempts,
            window_ms: milliseconds(r.window),
        }
    }
}

impl TryFrom<v1::RestartPolicy> for RestartPolicy {
    type Error = ConvertError;

    fn try_from(r: v1::RestartPolicy) -> Result<Self, ConvertError> {
        let condition = Condition::try_from(r.condition).map_err(|_| {
            let why = format_args!("{} is not a restart condition; update this node", r.condition);
            ConvertError::new("restart.condition", why)
        })?;
        Ok(Self {
            condition: match condition {
                Condition::None => RestartCondition::None,
                Condition::OnFailure => RestartCondition::OnFailure,
                Condition::Any => RestartCondition::Any,
            },
            delay: Duration::from_millis(r.delay_ms),
            max_attempts: r.max_attempts,
            window: Duration::from_millis(r.window_ms),
        })
    }
}

impl From<&TaskSpec> for v1::TaskSpec {
    fn from(t: &TaskSpec) -> Self {
        Self {
            image: t.image.to_string(),
            entrypoint: t.entrypoint.as_ref().map(|e| v1::StringList { items: e.clone() }),
            args: t.args.clone(),
            env: t
                .env
                .iter()
                .map(|(name, value)| v1::EnvVar { name: name.clone(), value: value.clone() })
                .collect(),
            stop_grace_ms: milliseconds(t.stop_grace),
            restart: Some((&t.restart).into()),
            pull: task_spec::PullPolicy::from(t.pull).into(),
            registry_auth: t.registry_auth.as_ref().map(|s| s.0.clone()).unwrap_or_default(),
            workdir: t.workdir.as_ref().map(|d| d.display().to_string()),
            user: t.user.clone(),
            groups: t.groups.clone(),
            hostname: t.hostname.clone(),
            labels: t.labels.clone().into_iter().collect(),
            init: t.init,
            tty: t.tty,
            names: Some((&t.names).into()),
            mounts: t.mounts.iter().map(Into::into).collect(),
            read_only: t.read_only,
            shm_size: t.shm_size,
            security: Some((&t.security).into()),
            ulimits: t.ulimits.iter().map(Into::into).collect(),
            network: task_spec::NetworkMode::from(t.network).into(),
            resources: Some((&t.resources).into()),
            health: Some((&t.health).into()),
            log: Some((&t.log).into()),
            stop_signal: t.stop_signal,
            force_update: t.force_update,
        }
    }
}

impl TryFrom<v1::TaskSpec> for TaskSpec {
    type Error = ConvertError;

    fn try_from(t: v1::TaskSpec) -> Result<Self, ConvertError> {
        Ok(Self {
            image: parse("task.image", &t.image)?,
            entrypoint: t.entrypoint.map(|e| e.items),
            args: t.args,
            env: t.env.into_iter().map(|e| (e.name, e.value)).collect(),
            stop_grace: Duration::from_millis(t.stop_grace_ms),
            restart: required("task.restart", t.restart)?.try_into()?,
            pull: container::pull_policy(t.pull)?,
            registry_auth: (!t.registry_auth.is_empty()).then_some(Sealed(t.registry_auth)),
            workdir: t.workdir.map(Into::into),
            user: t.user,
            groups: t.groups,
            hostname: t.hostname,
            labels: t.labels.into_iter().collect(),
            init: t.init,
            tty: t.tty,
            // Absent in what was stored before there were such options: the defaults.
            names: t.names.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            mounts: many(t.mounts)?,
            read_only: t.read_only,
            shm_size: t.shm_size,
            security: t.security.map(Into::into).unwrap_or_default(),
            ulimits: t.ulimits.into_iter().map(Into::into).collect(),
            network: container::network_mode(t.network)?,
            resources: t.resources.map(Into::into).unwrap_or_default(),
            health: t.health.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            log: t.log.map(Into::into).unwrap_or_default(),
            stop_signal: t.stop_signal,
            force_update: t.force_update,
        })
    }
}

impl From<&ServiceSpec> for v1::ServiceSpec {
    fn from(s: &ServiceSpec) -> Self {
        Self {
            name: s.name.clone(),
            labels: s.labels.clone().into_iter().collect(),
            replicas: s.replicas,
            task: Some((&s.task).into()),
            publish: s.publish.iter().map(Into::into).collect(),
            // Absent as before there were any: whoever reads an older store finds it unchanged.
            limits: s.limits.any().then(|| s.limits.into()),
        }
    }
}

impl TryFrom<v1::ServiceSpec> for ServiceSpec {
    type Error = ConvertError;

    fn try_from(s: v1::ServiceSpec) -> Result<Self, ConvertError> {
        Ok(Self {
            name: s.name,
            labels: s.labels.into_iter().collect(),
            replicas: s.replicas,
            task: required("service.task", s.task)?.try_into()?,
            publish: many(s.publish)?,
            limits: s.limits.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<&Service> for v1::Service {
    fn from(s: &Service) -> Self {
        Self {
            id: s.id.to_string(),
            version: s.version,
            spec_version: s.spec_version,
            datapath_id: s.datapath_id,
            spec: Some((&s.spec).into()),
            removing: s.removing,
            created_at_ms: s.created_at.0,
            previous: s.previous.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = ConvertError;

    fn try_from(s: v1::Service) -> Result<Self, ConvertError> {
        Ok(Self {
            id: parse("service.id", &s.id)?,
            version: s.version,
            spec_version: s.spec_version,
            datapath_id: s.datapath_id,
            spec: required("service.spec", s.spec)?.try_into()?,
            removing: s.removing,
            created_at: Timestamp(s.created_at_ms),
            previous: s.previous.map(TryInto::try_into).transpose()?,
        })
    }
}
