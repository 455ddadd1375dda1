//! What the agent holds of the datapath, and the verbs on it. One lock over maps and programs, held
//! only between awaits; one over work on links, so that two verbs never make and remove one link at
//! the same time.

mod found;
mod guard;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use warren_ebpf::abi::{Backend, map};

pub use self::guard::Guard;
use self::{
    found::find_attached,
    guard::Guards,
    state::{GRACE, MEND_PAUSE},
};
pub(super) use self::{found::unfinished, state::State};
use super::{
    Config, Gate, NetError,
    attach::{alias::Alias, host_name, link},
    datapath::{
        bpffs,
        contents::{self, Contents, Opened, Rows},
        desired::{self, Attached, Plan, Serving, Settings},
        diff::Change,
        links::Hook,
        loader::Loaded,
        shape::Shape,
        sys::{bytes_of, netns_cookie},
    },
    deny, home, machine,
    netlink::{Monitor, Netlink},
    purge::purge,
    reserved::Reserved,
    sockets::{self, SockDiag},
};
use crate::model::{Assignment, Attachment, TaskId};

/// How much of the maps is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audit {
    /// Whatever a program may come to.
    Known,
    /// Every row there is: tens of milliseconds of work.
    Whole,
}

/// Everything but the loop.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) settings: Settings,
    netns_dir: PathBuf,
    pub(super) deny_file: PathBuf,
    pub(super) netlink: Netlink,
    pub(super) monitor: Monitor,
    pub(super) assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// Something asks for a pass.
    pub(super) wake: Notify,
    sockets: Arc<SockDiag>,
    state: Mutex<State>,
    links: tokio::sync::Mutex<()>,
    /// Held by who writes the deny list.
    pub(super) denying: tokio::sync::Mutex<()>,
    /// Held by who ends sockets.
    ending: tokio::sync::Mutex<()>,
    /// Held by who removes flows.
    purging: tokio::sync::Mutex<()>,
    pub(super) generation: watch::Sender<u64>,
}

impl Engine {
    pub(super) async fn start(
        config: Config,
        assignment: watch::Receiver<Option<Arc<Assignment>>>,
        shapes: Vec<Shape>,
        hook: Hook,
    ) -> Result<Arc<Self>, NetError> {
        home::leave_old(&config)?;
        let denied = deny::read(&config.deny_file)?;
        // The verifier takes its time; whoever starts beside us must not wait for it.
        let pin_root = config.pin_root.clone();
        let loaded = tokio::task::spawn_blocking(move || Loaded::start(&pin_root, shapes, hook))
            .await
            .map_err(|_| NetError::Stopped)??;
        // Under the lock of the pins.
        home::settle(&config)?;
        for (path, held) in bpffs::others(&config.pin_root) {
            if held {
                tracing::info!("another node of this machine has its pins in {}", path.display());
            } else {
                tracing::info!(
                    "{} holds the pins of another node, which is stopped and whose containers may go on: if it is gone for good, run `warren node reset --data-dir DIR` with that node's data directory, in its network namespace",
                    path.display(),
                );
            }
        }
        let cookie =
            netns_cookie().map_err(|e| NetError::system("learn the network namespace's cookie", e))?;
        if let Some(why) = machine::without_ipv6() {
            tracing::info!("{why}: containers get IPv4 only");
        }
        let netlink = Netlink::open()?;
        let monitor = Monitor::open()?;
        let sockets = SockDiag::open().map_err(|e| NetError::system("open a socket of sock_diag", e))?;
        let host = netlink.host().await?;
        let current = if loaded.fresh { Ok(Contents::empty()) } else { contents::read(loaded.maps()) };
        let current = current.map_err(|e| NetError::system("read the datapath's maps", e))?;
        let settings = Settings {
            node: config.node,
            cookie,
            interfaces: config.interfaces,
            publish_default: config.publish_default,
            pools: config.pools,
        };
        let attached = find_attached(&settings, &host, &current);
        let reserved = Reserved::new(&config.netns_dir);
        let state = State {
            loaded,
            current,
            writes: 0,
            attached,
            denied,
            host,
            retired: Vec::new(),
            making: BTreeSet::new(),
            devices: BTreeSet::new(),
            refused: BTreeSet::new(),
            misnamed: Vec::new(),
            guards: Guards::new(config.guard),
            mended: BTreeMap::new(),
            switched: false,
            reserved,
            looked_at: Rows::new(),
            told: false,
            settled: None,
            leaving: Vec::new(),
        };
        let engine = Arc::new(Self {
            settings,
            netns_dir: config.netns_dir,
            deny_file: config.deny_file,
            netlink,
            monitor,
            assignment,
            wake: Notify::new(),
            sockets: Arc::new(sockets),
            state: Mutex::new(state),
            links: tokio::sync::Mutex::new(()),
            denying: tokio::sync::Mutex::new(()),
            ending: tokio::sync::Mutex::new(()),
            purging: tokio::sync::Mutex::new(()),
            generation: watch::Sender::new(0),
        });
        engine.pass(None).await?;
        Ok(engine)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self) -> Option<Arc<Assignment>> {
        self.assignment.borrow().clone()
    }

    /// Looks at everything and makes it so. With an audit, what the maps hold is read again and not
    /// remembered.
    pub(super) async fn pass(&self, audit: Option<Audit>) -> Result<(), NetError> {
        let found = match audit {
            Some(audit) => Some(self.read(audit).await?),
            None => None,
        };
        let host = self.netlink.host().await?;
        let assignment = self.heard();
        let mtu = host.smallest_mtu(&self.settings.interfaces);
        let unfinished = {
            let mut state = self.state();
            state.host = host;
            if audit.is_some() {
                // So that whatever the short way might get wrong is put right.
                state.settled = None;
            }
            // What we have written meanwhile is not in it; the next audit sees it.
            if let Some((writes, found)) = found
                && writes == state.writes
                && found != state.current
            {
                tracing::warn!("something else has written into the datapath's maps: mending it");
                state.current = found;
            }
            if let Some(a) = &assignment {
                state.reserved.set(a);
            }
            state.settle(&self.settings, assignment.as_ref())?;
            state.programs(&self.settings, assignment.is_some())?;
            state.due_for_mending(mtu)
        };
        for task in unfinished {
            self.mend(task, mtu).await;
        }
        self.end_sockets().await?;
        if let Some(a) = assignment {
            self.generation.send_replace(a.generation);
        }
        Ok(())
    }

    /// Ends connected UDP sockets of the node's processes that lead to a backend which they should
    /// leave. Only when the backends are others than at the last look.
    ///
    /// Whoever comes while another is at it waits: when this returns, they are ended.
    pub(super) async fn end_sockets(&self) -> Result<(), NetError> {
        let _turn = self.ending.lock().await;
        let (contents, maps) = {
            let mut state = self.state();
            let backends = state.current.rows(map::BACKEND);
            if *backends == state.looked_at {
                return Ok(());
            }
            state.looked_at = backends.clone();
            (state.current.clone(), state.loaded.maps().clone())
        };
        let diag = Arc::clone(&self.sockets);
        let end = move || {
            let leading = sockets::abandoned(&maps, &contents)?;
            if leading.is_empty() { Ok(0) } else { diag.end(&leading) }
        };
        match tokio::task::spawn_blocking(end).await.map_err(|_| NetError::Stopped)? {
            Ok(0) => {}
            Ok(ended) => tracing::info!(ended, "ended connected UDP sockets whose backend is going or gone"),
            // A kernel without it, or without a module: all else works.
            Err(e) => {
                let told = mem::replace(&mut self.state().told, true);
                if !told {
                    tracing::warn!(
                        "this kernel does not end UDP sockets of this node's processes (CONFIG_INET_DIAG_DESTROY, udp_diag): one that is connected to a published port must connect again when its container is replaced: {e}"
                    );
                }
            }
        }
        Ok(())
    }

    /// When the loop should look again if nothing happens before: rows that nobody reads any more
    /// are to be zeroed, and a mended link may be broken again.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let state = self.state();
        let rows = state.retired.iter().map(|(_, since)| *since + GRACE).max();
        let links = state.mended.values().map(|last| *last + MEND_PAUSE).max();
        let at = rows.into_iter().chain(links).min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Brings a link back that something else has removed or changed.
    async fn mend(&self, task: TaskId, mtu: u32) {
        let attached = self.state().attached.get(&task).copied();
        let Some(a) = attached else { return };
        match self.connect(task, &a.attachment, mtu, true).await {
            Ok(()) => tracing::info!(
                "the link of task {task} is mended: it was changed, or has to follow another MTU"
            ),
            Err(e) => tracing::warn!("cannot mend the link of task {task}: {e}"),
        }
    }

    /// Makes or completes a task's link, with its program and its rows; with `mend` only if it has
    /// not been detached meanwhile.
    async fn connect(
        &self,
        task: TaskId,
        attachment: &Attachment,
        mtu: u32,
        mend: bool,
    ) -> Result<(), NetError> {
        let _links = self.links.lock().await;
        if mend && !self.state().attached.contains_key(&task) {
            return Ok(());
        }
        let alias = Alias { node: self.settings.node, task, attachment: *attachment };
        let _making = (!mend).then(|| Making::begin(self, task));
        let index = link::make(&self.netlink, &self.netns_dir, &alias, mtu).await?;
        let ipv6 = link::has_ipv6(task, mtu);
        {
            let mut state = self.state();
            state.loaded.attach_link(index, &host_name(task))?;
            let serving = match state.attached.get(&task) {
                Some(a) if a.attachment == *attachment => a.serving,
                _ => Serving::Closed,
            };
            let attached = Attached { attachment: *attachment, ifindex: index, ipv6, serving };
            state.attached.insert(task, attached);
            state.settle(&self.settings, self.heard().as_ref())?;
        }
        // The link goes up last: from its first packet on there are a program and its rows.
        link::finish(&self.netlink, &self.netns_dir, &alias, index, ipv6).await
    }

    pub(super) async fn attach(&self, task: TaskId, attachment: &Attachment) -> Result<PathBuf, NetError> {
        let mtu = self.state().host.smallest_mtu(&self.settings.interfaces);
        self.connect(task, attachment, mtu, false).await?;
        Ok(link::namespace_path(&self.netns_dir, task))
    }

    pub(super) fn serve(&self, task: TaskId, attachment: &Attachment, gate: Gate) -> Result<(), NetError> {
        let assignment = self.heard();
        let mut state = self.state();
        let a = state.attached.get_mut(&task).filter(|a| a.attachment == *attachment);
        let a = match a {
            Some(a) => a,
            None if gate == Gate::Open => return Err(NetError::NotAttached(task)),
            None => return Ok(()),
        };
        a.serving = match (gate, a.serving) {
            (Gate::Open, _) => Serving::Open,
            (_, Serving::Closed) => Serving::Closed,
            (Gate::Held, _) | (_, Serving::Held) => Serving::Held,
            (Gate::Draining, _) => Serving::Draining,
        };
        let row = desired::backend_row(task, a, assignment.as_deref());
        // This one write is what the next packet obeys; tables follow.
        let key = bytes_of(&attachment.backend).to_vec();
        let value = bytes_of(&row).to_vec();
        let known: Option<Backend> = state.current.get(map::BACKEND, &attachment.backend);
        if known.is_some_and(|k| Backend { state: row.state, ..k } == row) {
            state.apply(&[Change::Set { map: map::BACKEND, key, value }])?;
        }
        state.settle(&self.settings, assignment.as_ref())?;
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(super) async fn detach(&self, task: TaskId) -> Result<(), NetError> {
        let links = self.links.lock().await;
        let (gone, maps) = {
            let mut state = self.state();
            let gone = state.attached.remove(&task);
            state.settle(&self.settings, self.heard().as_ref())?;
            if let Some(a) = &gone {
                state.loaded.links().remove_device(a.ifindex, &host_name(task))?;
            }
            (gone, state.loaded.maps().clone())
        };
        link::remove(&self.netlink, &self.netns_dir, task).await?;
        self.state().loaded.links().sweep()?;
        drop(links);
        // While it is still known which sockets lead to it.
        self.end_sockets().await?;
        self.state().leaving.extend(gone.map(|a| a.attachment));
        self.purge(maps).await?;
        self.wake.notify_one();
        Ok(())
    }

    /// Removes the flows of the containers that have lost their links: no packet of theirs makes one any
    /// more. Whoever waits for its turn finds its own removed by the one before: one walk through the
    /// tables is enough for all.
    async fn purge(&self, maps: Opened) -> Result<(), NetError> {
        let _turn = self.purging.lock().await;
        let leaving = mem::take(&mut self.state().leaving);
        if leaving.is_empty() {
            return Ok(());
        }
        let those = leaving.clone();
        let purged = tokio::task::spawn_blocking(move || purge(&maps, &those)).await;
        let purged = purged.map_err(|_| NetError::Stopped).and_then(|done| {
            done.map_err(|e| NetError::system("remove the flows of containers that are gone", e))
        });
        if purged.is_err() {
            self.state().leaving.extend(leaving);
        }
        purged
    }

    /// What the maps hold, read where it holds nobody up, and how often we had written before. Only
    /// when we have not written since is it what they hold at one moment.
    async fn read(&self, audit: Audit) -> Result<(u64, Contents), NetError> {
        let (writes, maps, known) = {
            let state = self.state();
            let known = (audit == Audit::Known).then(|| state.current.clone());
            (state.writes, state.loaded.maps().clone(), known)
        };
        let read = move || match known {
            Some(known) => contents::read_known(&maps, &known),
            None => contents::read(&maps),
        };
        let found = tokio::task::spawn_blocking(read).await.map_err(|_| NetError::Stopped)?;
        Ok((writes, found.map_err(|e| NetError::system("read the datapath's maps", e))?))
    }

    /// What should be in the maps and what really is; `None` when we were writing all the time.
    pub(super) async fn read_again(&self) -> Result<Option<(Plan, Contents)>, NetError> {
        for _ in 0..10 {
            let (writes, found) = self.read(Audit::Whole).await?;
            let state = self.state();
            if state.writes == writes {
                return Ok(Some((state.plan(&self.settings, self.heard().as_deref()), found)));
            }
        }
        Ok(None)
    }

    pub(super) fn list(&self) -> Result<Vec<TaskId>, NetError> {
        let mut tasks: BTreeSet<TaskId> = link::namespaces(&self.netns_dir)
            .map_err(|e| NetError::system("list network namespaces", e))?
            .into_iter()
            .collect();
        tasks.extend(self.state().attached.keys());
        Ok(tasks.into_iter().collect())
    }
}

/// A link being made; ends with the call that makes it, also when that is given up.
struct Making<'a> {
    engine: &'a Engine,
    task: TaskId,
}

impl<'a> Making<'a> {
    fn begin(engine: &'a Engine, task: TaskId) -> Self {
        engine.state().making.insert(task);
        Self { engine, task }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.engine.state().making.remove(&self.task);
    }
}
