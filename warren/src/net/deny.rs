//! The node's deny list: networks whose clients published ports never answer. Kept in a file of the
//! node's data directory, written whole; the first line has the checksum of all others, which have a
//! network each.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use ipnet::IpNet;
use warren_ebpf::abi::capacity;

use super::{NetError, engine::Engine};

/// Networks, without the bits behind their prefix.
pub type DenyList = BTreeSet<IpNet>;

const TITLE: &str = "warren deny list ";

/// Reads the list; none is an empty one.
pub(super) fn read(path: &Path) -> Result<DenyList, NetError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(DenyList::new()),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(damaged(path)),
        Err(e) => return Err(NetError::system("read the deny list", e)),
    };
    parse(&text).ok_or_else(|| damaged(path))
}

fn damaged(path: &Path) -> NetError {
    NetError::DenyList { path: path.to_owned() }
}

fn parse(text: &str) -> Option<DenyList> {
    let (title, lines) = text.split_once('\n')?;
    let sum = u32::from_str_radix(title.strip_prefix(TITLE)?, 16).ok()?;
    if crc32fast::hash(lines.as_bytes()) != sum {
        return None;
    }
    lines.lines().map(|line| line.parse().ok()).collect()
}

fn written(list: &DenyList) -> String {
    let lines: String = list.iter().map(|net| format!("{net}\n")).collect();
    format!("{TITLE}{:08x}\n{lines}", crc32fast::hash(lines.as_bytes()))
}

/// Writes the list so that after a power cut either this one or the one before is there.
fn write(path: &Path, list: &DenyList) -> Result<(), NetError> {
    let write = || {
        let aside = path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(written(list).as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        match path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|e| NetError::system("write the deny list", e))
}

/// What becomes of a list.
fn changed(list: &DenyList, add: &[IpNet], remove: &[IpNet]) -> Result<DenyList, NetError> {
    let mut list = list.clone();
    for net in remove.iter().map(IpNet::trunc) {
        if !list.remove(&net) {
            return Err(NetError::NotDenied { net });
        }
    }
    list.extend(add.iter().map(IpNet::trunc));
    for v4 in [true, false] {
        if list.iter().filter(|net| net.addr().is_ipv4() == v4).count() > capacity::DENIED {
            return Err(NetError::DenyListFull { room: capacity::DENIED });
        }
    }
    Ok(list)
}

/// Changes the node's list: on the disk first, so that what is said to hold goes on holding.
pub(super) async fn change(engine: &Engine, add: &[IpNet], remove: &[IpNet]) -> Result<DenyList, NetError> {
    let _denying = engine.denying.lock().await;
    let list = changed(&engine.state().denied, add, remove)?;
    let (file, kept) = (engine.deny_file.clone(), list.clone());
    tokio::task::spawn_blocking(move || write(&file, &kept)).await.map_err(|_| NetError::Stopped)??;
    let mut state = engine.state();
    state.denied.clone_from(&list);
    state.settle(&engine.settings, engine.heard().as_ref())?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(all: &[&str]) -> Vec<IpNet> {
        all.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn lists_are_changed_whole_or_not_at_all() {
        let list = changed(&DenyList::new(), &nets(&["192.0.2.7/24", "2001:db8::1/48"]), &[]).unwrap();
        assert_eq!(list, nets(&["192.0.2.0/24", "2001:db8::/48"]).into_iter().collect());
        assert_eq!(changed(&list, &nets(&["192.0.2.0/24"]), &[]).unwrap(), list, "twice is once");
        let fewer = changed(&list, &[], &nets(&["192.0.2.9/24"])).unwrap();
        assert_eq!(fewer, nets(&["2001:db8::/48"]).into_iter().collect());
        let why = changed(&fewer, &[], &nets(&["2001:db8::/48", "10.0.0.0/8"])).unwrap_err().to_string();
        assert!(why.contains("10.0.0.0/8") && !why.contains('\n'), "{why}");
        let many: Vec<IpNet> = (0..=capacity::DENIED as u32)
            .map(|n| IpNet::new(std::net::Ipv4Addr::from(n).into(), 32).unwrap())
            .collect();
        assert!(matches!(changed(&fewer, &many, &[]), Err(NetError::DenyListFull { .. })));
        assert!(changed(&fewer, &many[1..], &[]).is_ok());
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deny");
        assert_eq!(read(&path).unwrap(), DenyList::new());
        let list: DenyList = nets(&["192.0.2.0/24", "2001:db8::/48", "0.0.0.0/0"]).into_iter().collect();
        for list in [list.clone(), DenyList::new(), list] {
            write(&path, &list).unwrap();
            assert_eq!(read(&path).unwrap(), list);
        }
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let why = read(&path).unwrap_err().to_string();
            assert!(why.contains("deny") && why.contains(path.to_str().unwrap()), "{why}");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            fs::write(&path, other).unwrap();
            assert!(read(&path).is_err(), "byte {at}");
        }
    }
}
