//! What the agent knows of the kernel, and the writes that make the maps and the programs what they
//! should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        NetError,
        attach::host_name,
        datapath::{
            apply::apply,
            bpffs,
            contents::{Contents, Rows},
            desired::{Attached, Plan, Settings, View, plan},
            diff::{Change, diff},
            links,
            loader::Loaded,
            ports,
        },
        deny::DenyList,
        netlink::host::Host,
        reserved::Reserved,
    },
    found::unfinished,
    guard::Guards,
};
use crate::model::{Assignment, Attachment, TaskId};

/// How long rows of a replaced table are left alone: far longer than a packet is in a program.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// A link is mended at most once in this time: whoever breaks it again and again, or something that
/// cannot be mended, must not keep us busy.
pub(super) const MEND_PAUSE: Duration = Duration::from_secs(1);

/// What is known of the kernel.
#[derive(Debug)]
pub(in crate::net) struct State {
    pub(in crate::net) loaded: Loaded,
    pub(in crate::net) current: Contents,
    /// How often we have written.
    pub(super) writes: u64,
    pub(in crate::net) attached: BTreeMap<TaskId, Attached>,
    /// Whom published ports never answer.
    pub(in crate::net) denied: DenyList,
    pub(in crate::net) host: Host,
    pub(super) retired: Vec<(Range<u32>, Instant)>,
    /// Whose links are being made: not yet as they should be, and nothing to mend.
    pub(in crate::net) making: BTreeSet<TaskId>,
    /// Devices that run our programs: number and name.
    pub(in crate::net) devices: BTreeSet<(u32, String)>,
    /// Devices that could not get one, told already.
    pub(super) refused: BTreeSet<(u32, String)>,
    /// What is wrong with `--interface`, told already.
    pub(super) misnamed: Vec<String>,
    /// Who drops early.
    pub(in crate::net) guards: Guards,
    /// When each broken link was mended last.
    pub(super) mended: BTreeMap<TaskId, Instant>,
    /// Whether our programs are in the place of an earlier agent's.
    pub(super) switched: bool,
    pub(super) reserved: Reserved,
    /// The backends that the node's own sockets were last looked at for.
    pub(super) looked_at: Rows,
    /// Told already that connected UDP sockets cannot be ended.
    pub(super) told: bool,
    /// What the maps were made from; `None` when that is not known.
    pub(super) settled: Option<Settled>,
    /// Containers without a link, whose flows are still there.
    pub(super) leaving: Vec<Attachment>,
}

/// What decided when the maps were last written.
#[derive(Debug)]
pub(in crate::net) struct Settled {
    assignment: Arc<Assignment>,
    attached: BTreeMap<TaskId, Attached>,
    denied: DenyList,
    host: Host,
}

impl State {
    /// Computes what is to be from what is.
    pub(in crate::net) fn plan(&self, settings: &Settings, assignment: Option<&Assignment>) -> Plan {
        let retired: Vec<Range<u32>> = self.retired.iter().map(|(r, _)| r.clone()).collect();
        plan(&self.view(settings, assignment, &retired))
    }

    fn view<'a>(
        &'a self,
        settings: &'a Settings,
        assignment: Option<&'a Assignment>,
        retired: &'a [Range<u32>],
    ) -> View<'a> {
        View {
            settings,
            host: &self.host,
            attached: &self.attached,
            denied: &self.denied,
            assignment,
            current: &self.current,
            retired,
        }
    }

    /// The writes, if nothing but ports has changed since the last ones.
    fn ports(&self, settings: &Settings, assignment: &Assignment) -> Option<Vec<Change>> {
        let last = self.settled.as_ref()?;
        let same = last.attached == self.attached && last.denied == self.denied && last.host == self.host;
        // No row of `MAGLEV` changes: which ones are retired is no matter.
        same.then(|| ports::changes(&self.view(settings, Some(assignment), &[]), &last.assignment))?
    }

    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<(), NetError> {
        self.writes += u64::from(!changes.is_empty());
        let done = apply(&mut self.loaded.maps().clone(), &mut self.current, changes);
        done.map_err(|e| NetError::system("write the datapath's maps", e))
    }

    /// Makes the maps so.
    pub(in crate::net) fn settle(
        &mut self,
        settings: &Settings,
        assignment: Option<&Arc<Assignment>>,
    ) -> Result<(), NetError> {
        let now = Instant::now();
        let retired = self.retired.len();
        self.retired.retain(|(_, since)| now.duration_since(*since) < GRACE);
        let due = self.retired.len() < retired;
        let short = assignment.filter(|_| !due).and_then(|wanted| self.ports(settings, wanted));
        let (changes, retire) = match short {
            Some(changes) => (changes, Vec::new()),
            None => {
                let Plan { desired, retire } = self.plan(settings, assignment.map(AsRef::as_ref));
                (diff(&self.current, &desired), retire)
            }
        };
        let planned = now.elapsed();
        let settled = self.settled.take();
        self.apply(&changes)?;
        if !changes.is_empty() {
            tracing::debug!(
                rows = changes.len(),
                plan_us = planned.as_micros(),
                write_us = (now.elapsed() - planned).as_micros(),
                "the datapath's maps are written"
            );
        }
        self.retired.extend(retire.into_iter().map(|r| (r, now)));
        self.settled = assignment.map(|wanted| self.settled(settled, wanted));
        Ok(())
    }

    /// What the maps are made from now.
    fn settled(&self, last: Option<Settled>, assignment: &Arc<Assignment>) -> Settled {
        let assignment = Arc::clone(assignment);
        match last {
            Some(s) if s.attached == self.attached && s.denied == self.denied && s.host == self.host => {
                Settled { assignment, ..s }
            }
            _ => Settled {
                assignment,
                attached: self.attached.clone(),
                denied: self.denied.clone(),
                host: self.host.clone(),
            },
        }
    }

    /// Puts programs where they belong: on every device that takes part and on every link.
    pub(super) fn programs(&mut self, settings: &Settings, heard: bool) -> Result<(), NetError> {
        if !self.switched && self.loaded.refill && !heard {
            // The programs of an earlier build go on with its maps until ours are filled.
            return Ok(());
        }
        if !self.switched {
            self.loaded.carry_over()?;
        }
        self.tell_misnamed(&settings.interfaces);
        let mut wanted = BTreeSet::new();
        let uplinks: Vec<_> = self.host.uplinks(&settings.interfaces).cloned().collect();
        for d in &uplinks {
            let device = (d.index, d.name.clone());
            if !self.devices.contains(&device) {
                match self.loaded.attach_device(device.0, &device.1, d.layer) {
                    Ok(()) => {
                        self.refused.remove(&device);
                        self.devices.insert(device.clone());
                    }
                    // It may just be going. If not, the others must not wait for it; `check` tells.
                    Err(e) if self.refused.insert(device.clone()) => {
                        tracing::warn!("nothing is published on device {}: {e}", device.1);
                    }
                    Err(_) => {}
                }
            }
            wanted.insert(device);
        }
        if self.switched {
            // One that is there and takes no part any more: it has become a port of another.
            for (index, name) in &self.devices {
                let there = self.host.devices.iter().any(|d| d.index == *index && d.name == *name);
                if there && !wanted.iter().any(|(i, _)| i == index) {
                    self.loaded.links().remove_device(*index, name)?;
                }
            }
            self.guards.put(&mut self.loaded, &uplinks, false)?;
            self.devices.retain(|d| wanted.contains(d));
            self.refused.retain(|d| wanted.contains(d));
            return self.loaded.links().sweep();
        }
        let links: Vec<(u32, String)> =
            self.attached.iter().map(|(t, a)| (a.ifindex, host_name(*t))).collect();
        for (index, name) in &links {
            if self.host.devices.iter().any(|d| d.index == *index) {
                self.loaded.attach_link(*index, name)?;
            }
        }
        self.loaded.attach_sockets()?;
        self.guards.put(&mut self.loaded, &uplinks, true)?;
        self.forget_others(&wanted, &links)?;
        let late = self.loaded.carry_over()?;
        self.loaded.drop_old_maps()?;
        self.switched = true;
        tracing::info!(devices = wanted.len(), links = links.len(), late, "datapath is in place");
        Ok(())
    }

    /// Says what has come to be wrong with `--interface`: a device has gone, or become another's port.
    fn tell_misnamed(&mut self, interfaces: &[String]) {
        let now = self.host.misnamed(interfaces);
        for sentence in now.iter().filter(|s| !self.misnamed.contains(s)) {
            tracing::warn!("{sentence}");
        }
        self.misnamed = now;
    }

    /// Broken links that have not been mended just now.
    pub(super) fn due_for_mending(&mut self, mtu: u32) -> Vec<TaskId> {
        let now = Instant::now();
        let broken = unfinished(self, mtu);
        self.mended.retain(|t, last| broken.contains(t) || now.duration_since(*last) < MEND_PAUSE);
        let due = |t: &TaskId| self.mended.get(t).is_none_or(|l| now.duration_since(*l) >= MEND_PAUSE);
        let due: Vec<TaskId> = broken.into_iter().filter(due).collect();
        self.mended.extend(due.iter().map(|t| (*t, now)));
        due
    }

    /// Ends what an earlier start ran on devices that take no part any more.
    fn forget_others(
        &self,
        wanted: &BTreeSet<(u32, String)>,
        links: &[(u32, String)],
    ) -> Result<(), NetError> {
        let ours =
            |index: u32| wanted.iter().any(|(i, _)| *i == index) || links.iter().any(|(i, _)| *i == index);
        for (pin, path) in self.loaded.links().pins()? {
            let index = links::device_of(&pin);
            if index.is_some_and(|i| !ours(i)) {
                bpffs::remove_file(&path).map_err(|e| NetError::system("remove a pinned link", e))?;
            }
        }
        for d in self.host.devices.iter().filter(|d| !ours(d.index)) {
            links::remove_filter(&d.name);
        }
        Ok(())
    }
}
