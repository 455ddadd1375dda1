//! Makes, completes and removes links. Every step may be repeated; an agent that dies between two
//! steps leaves something that the same call completes or removes.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use futures::TryStreamExt;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope},
        link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute},
        neighbour::NeighbourState,
        route::RouteScope,
    },
};

use super::{
    super::{
        NetError,
        netlink::{Netlink, host::Device, is_errno, request},
    },
    GATEWAY, GATEWAY6, HOST_MAC, INSIDE,
    alias::Alias,
    container_mac, host_name, namespace,
};
use crate::model::TaskId;

/// Where a task's namespace is mounted.
#[must_use]
pub fn namespace_path(dir: &Path, task: TaskId) -> PathBuf {
    dir.join(task.as_str())
}

/// Tasks that have a namespace, whole or half-made.
pub fn namespaces(dir: &Path) -> io::Result<Vec<TaskId>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut tasks = Vec::new();
    for e in entries {
        if let Ok(task) = e?.file_name().to_string_lossy().parse() {
            tasks.push(task);
        }
    }
    Ok(tasks)
}

/// Makes the namespace and the pair, still down, and returns the host end's index. What carries
/// the task's name and is not complete is made anew; both ends get this MTU.
pub async fn make(netlink: &Netlink, dir: &Path, alias: &Alias, mtu: u32) -> Result<u32, NetError> {
    let ns = namespace_path(dir, alias.task);
    let path = ns.clone();
    aside("make a network namespace", move || namespace::create(&path)).await?;
    let name = host_name(alias.task);
    let text = alias.to_string();
    if let Some(device) = find(netlink, &name).await? {
        if !device.is_ours() {
            return Err(NetError::NameTaken { name });
        }
        let inside = open_inside(&ns).await?;
        let peer = find(&inside, INSIDE).await?;
        if let Some(peer) = peer.filter(|_| device.alias.as_deref() == Some(&text)) {
            if peer.mtu != mtu {
                set(&inside, LinkUnspec::new_with_index(peer.index).mtu(mtu)).await?;
            }
            if device.mtu != mtu {
                set(netlink, LinkUnspec::new_with_index(device.index).mtu(mtu)).await?;
                // A link that had no room for IPv6 and now has is as good as new.
                let change = LinkUnspec::new_with_index(device.index);
                set(netlink, without_ipv6_address(change, knows_ipv6(&name))).await?;
            }
            return Ok(device.index);
        }
        remove_device(netlink, device.index).await?;
    }
    let file = fs::File::open(&ns).map_err(|e| NetError::system("open a network namespace", e))?;
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(INSIDE)
        .address(container_mac(alias.task).to_vec())
        .mtu(mtu)
        .build();
    peer.attributes.push(LinkAttribute::NetNsFd(file.as_raw_fd()));
    let pair = LinkVeth::new(&name, INSIDE)
        .address(HOST_MAC.to_vec())
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    netlink.handle.link().add(pair).execute().await.map_err(request("make a veth pair"))?;
    let device = find(netlink, &name).await?.ok_or_else(|| NetError::Vanished { name: name.clone() })?;
    // Not in the request above: the kernel ignores an alias there.
    let change = LinkUnspec::new_with_index(device.index).alias(text);
    set(netlink, without_ipv6_address(change, knows_ipv6(&name))).await?;
    Ok(device.index)
}

/// Whether a task's link, once made, has room for IPv6: the kernel may have none at all, an
/// administrator may have switched it off for new devices, and links of less than 1280 bytes carry
/// none.
#[must_use]
pub fn has_ipv6(task: TaskId, mtu: u32) -> bool {
    const LEAST: u32 = 1280;
    let disabled = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", host_name(task));
    mtu >= LEAST && fs::read_to_string(disabled).is_ok_and(|s| s.trim() == "0")
}

/// Addresses, neighbours, routes on both sides, then both ends up; of IPv6 only where the link
/// [has](has_ipv6) it.
pub async fn finish(
    netlink: &Netlink,
    dir: &Path,
    alias: &Alias,
    index: u32,
    with_ipv6: bool,
) -> Result<(), NetError> {
    let (v4, v6) = (alias.attachment.address, alias.attachment.address6);
    inside(&namespace_path(dir, alias.task), v4, v6, with_ipv6).await?;
    // A container must not be this node's router.
    let name = host_name(alias.task);
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
    set(netlink, LinkUnspec::new_with_index(index).up()).await?;
    let mac = container_mac(alias.task);
    neighbour(netlink, index, v4.into(), mac).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(v4, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    netlink.handle.route().add(route).replace().execute().await.map_err(request("route to a container"))?;
    if with_ipv6 {
        neighbour(netlink, index, v6.into(), mac).await?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, 128)
            .output_interface(index)
            .build();
        netlink
            .handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(request("route to a container"))?;
    }
    Ok(())
}

/// Removes link and namespace; nothing there is no error. The namespace goes last: as long as it
/// is there, the task is listed.
pub async fn remove(netlink: &Netlink, dir: &Path, task: TaskId) -> Result<(), NetError> {
    if let Some(device) = find(netlink, &host_name(task)).await?
        && device.is_ours()
    {
        remove_device(netlink, device.index).await?;
    }
    let path = namespace_path(dir, task);
    aside("remove a network namespace", move || namespace::remove(&path)).await
}

/// Does what blocks where it holds nobody up.
async fn aside<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NetError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| NetError::Stopped)?;
    done.map_err(|e| NetError::system(what, e))
}

/// The device of this name.
pub async fn find(netlink: &Netlink, name: &str) -> Result<Option<Device>, NetError> {
    let found = netlink.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    match found {
        Ok(m) => Ok(m.map(super::super::netlink::device)),
        Err(e) if is_errno(&e, libc::ENODEV) => Ok(None),
        Err(e) => Err(request("look for a device")(e)),
    }
}

/// Removes a device; one that is gone is no error.
pub async fn remove_device(netlink: &Netlink, index: u32) -> Result<(), NetError> {
    match netlink.handle.link().del(index).execute().await {
        Err(e) if !is_errno(&e, libc::ENODEV) => Err(request("remove a link")(e)),
        _ => Ok(()),
    }
}

async fn set(netlink: &Netlink, change: LinkMessageBuilder<LinkUnspec>) -> Result<(), NetError> {
    netlink.handle.link().set(change.build()).execute().await.map_err(request("set up a link"))
}

async fn neighbour(netlink: &Netlink, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), NetError> {
    netlink
        .handle
        .neighbours()
        .add(index, ip)
        .link_layer_address(&mac)
        .state(NeighbourState::Permanent)
        .replace()
        .execute()
        .await
        .map_err(request("set a neighbour"))
}

/// Whether the kernel has a place for IPv6 on this device of ours, switched off or not: it has none
/// on links of less than 1280 bytes, and refuses settings for it.
fn knows_ipv6(device: &str) -> bool {
    Path::new("/proc/sys/net/ipv6/conf").join(device).is_dir()
}

/// No link-local address made by the kernel: nothing on the link needs one, and its duplicate
/// address detection would be the first thing the container sends.
fn without_ipv6_address(
    change: LinkMessageBuilder<LinkUnspec>,
    knows_ipv6: bool,
) -> LinkMessageBuilder<LinkUnspec> {
    if !knows_ipv6 {
        return change;
    }
    change.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
        AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
    ])]))
}

/// A routing socket inside a namespace; its requests are served by this runtime.
async fn open_inside(ns: &Path) -> Result<Netlink, NetError> {
    let (runtime, ns) = (tokio::runtime::Handle::current(), ns.to_path_buf());
    aside("enter a network namespace", move || {
        namespace::inside(&ns, move || {
            let _context = runtime.enter();
            Netlink::open().map_err(io::Error::other)
        })
    })
    .await
}

/// What Docker allows inside a container: ping without privileges, low ports for everyone.
fn container_sysctls(with_ipv6: bool) -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    if with_ipv6 {
        let conf = |key: &str| format!("/proc/sys/net/ipv6/conf/{INSIDE}/{key}");
        fs::write(conf("disable_ipv6"), "0")?;
        fs::write(conf("accept_ra"), "0")?;
    }
    Ok(())
}

async fn inside(ns: &Path, v4: Ipv4Addr, v6: Ipv6Addr, with_ipv6: bool) -> Result<(), NetError> {
    let path = ns.to_path_buf();
    let knows_ipv6 = aside("set a container's sysctls", move || {
        namespace::inside(&path, move || container_sysctls(with_ipv6).map(|()| knows_ipv6(INSIDE)))
    })
    .await?;
    let netlink = open_inside(ns).await?;
    let lo = find(&netlink, "lo").await?.ok_or(NetError::Vanished { name: "lo".into() })?;
    set(&netlink, LinkUnspec::new_with_index(lo.index).up()).await?;
    let eth0 = find(&netlink, INSIDE).await?.ok_or(NetError::Vanished { name: INSIDE.into() })?;
    let index = eth0.index;
    set(&netlink, without_ipv6_address(LinkUnspec::new_with_index(index), knows_ipv6)).await?;
    set(&netlink, LinkUnspec::new_with_index(index).up()).await?;
    let handle = &netlink.handle;
    handle
        .address()
        .add(index, v4.into(), 32)
        .replace()
        .execute()
        .await
        .map_err(request("give a container its address"))?;
    neighbour(&netlink, index, GATEWAY.into(), HOST_MAC).await?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(GATEWAY)
        .output_interface(index)
        .pref_source(v4)
        .build();
    for route in [gateway, default] {
        handle.route().add(route).replace().execute().await.map_err(request("route a container"))?;
    }
    if with_ipv6 {
        let mut add = handle.address().add(index, v6.into(), 128).replace();
        let message = add.message_mut();
        message.header.scope = AddressScope::Universe;
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        add.execute().await.map_err(request("give a container its IPv6 address"))?;
        neighbour(&netlink, index, GATEWAY6.into(), HOST_MAC).await?;
        let default =
            RouteMessageBuilder::<Ipv6Addr>::new().gateway(GATEWAY6).output_interface(index).build();
        handle.route().add(default).replace().execute().await.map_err(request("route a container"))?;
    }
    Ok(())
}
