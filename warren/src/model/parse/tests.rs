//! Forms that are taken, with what they mean, and forms that are not, with what is said.

use std::time::Duration;

use super::*;
use crate::model::{Device, HttpProbe, Mount, Probe, Ulimit};

#[test]
fn numbers() {
    for (text, bytes) in [
        ("0", 0),
        ("100", 100),
        ("1k", 1024),
        ("512M", 512 << 20),
        ("1.5g", 3 << 29),
        ("64MiB", 64 << 20),
        ("10 kb", 10 << 10),
        ("0.5k", 512),
        ("7b", 7),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "k", "-1", "1x", "1.2.3m", "1,5g", "9999999999g", "+1", "1 m b", "NaN"] {
        let e = size(text).unwrap_err().to_string();
        assert!(e.starts_with("bad size \""), "{e}");
    }
    assert_eq!((swap("-1"), swap("1g")), (Ok(-1), Ok(1 << 30)));
    assert!(swap("-2").unwrap_err().to_string().contains("-1 for as much"));
    assert_eq!((cpus("2"), cpus("0.25"), cpus(".5")), (Ok(2_000_000_000), Ok(250_000_000), Ok(500_000_000)));
    for text in ["", "-1", "1.", "x", "1e3"] {
        // A dot at the end is Go's, too.
        assert_eq!(cpus(text).is_ok(), text == "1.", "{text}");
    }
    for (text, ms) in
        [("0", 0), ("300ms", 300), ("1m30s", 90_000), ("1.5h", 5_400_000), ("1d", 86_400_000), ("2s", 2000)]
    {
        assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "5", "s", "-1s", "1x", "1s2", "99999999999999h", "1m 30s x"] {
        assert!(duration(text).unwrap_err().to_string().contains("1m30s"), "{text}");
    }
    assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
    assert_eq!(seconds("10ms"), Ok(Duration::from_millis(10)));
}

#[test]
fn signals() {
    for (text, number) in [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigquit", 3),
        ("9", 9),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("64", 64),
        ("SIGIOT", 6),
    ] {
        assert_eq!(signal(text), Ok(number), "{text}");
        assert_eq!(signal(&signal_name(number)), Ok(number));
    }
    for text in ["", "0", "65", "-1", "SIGNOPE", "RTMIN+31", "RTMAX+1", "+9", "RTMIN+"] {
        assert!(signal(text).is_err(), "{text}");
    }
}

#[test]
fn mounts_that_are_wrong_say_how() {
    for (text, needle) in [
        ("", "\"\" has no value"),
        ("target=/a,colour=red", "\"colour\" is not an option"),
        ("type=nfs,target=/a", "none of bind, volume and tmpfs"),
        ("type=bind,target=/a", "a bind needs a source"),
        ("type=volume", "there is no target"),
        ("type=tmpfs,source=x,target=/a", "a tmpfs has no source"),
        ("type=volume,target=/a,tmpfs-size=1m", "tmpfs-size has no meaning for a mount of type volume"),
        ("type=bind,source=/a,target=/a,volume-nocopy", "volume-nocopy has no meaning"),
        ("type=tmpfs,target=/a,bind-propagation=shared", "bind-propagation has no meaning"),
        ("type=bind,source=/a,target=/a,bind-propagation=up", "bad propagation"),
        ("type=tmpfs,target=/a,tmpfs-mode=9", "octal"),
        ("type=tmpfs,target=/a,tmpfs-size=big", "bad size"),
        ("target=/a,ro=maybe", "true or false"),
        ("target=/a,\"source=b", "quote is not closed"),
        ("/a:/b", "has no value"),
    ] {
        let e = text.parse::<Mount>().unwrap_err().to_string();
        assert!(e.contains(needle), "{text}: {e}");
    }
    let quoted: Mount = r#"type=bind,"source=/a,b ""c""",destination=/d,readonly=false"#.parse().unwrap();
    let crate::model::MountSource::Bind { path, .. } = quoted.source else { panic!() };
    assert_eq!((path.to_str(), quoted.read_only), (Some(r#"/a,b "c""#), false));
}

#[test]
fn small_things() {
    let http = |t: &str| t.parse::<HttpProbe>();
    assert_eq!(http("http://:8080").map(|h| (h.port, h.path)), Ok((8080, "/".into())));
    assert_eq!(http("https:///x?y").map(|h| (h.https, h.port, h.path)), Ok((true, 443, "/x?y".into())));
    assert_eq!(http("http://:80?a").map(|h| h.path), Ok("/?a".into()));
    for text in
        [":80/x", "http://example.org/", "http://:0/", "http://:99999/", "http://:+1/", "ftp://:1/", ""]
    {
        assert!(http(text).unwrap_err().to_string().contains("http://:PORT/PATH"), "{text}");
    }
    assert_eq!(health_command(r#"["CMD", "a", "b"]"#), Ok(Probe::Command(vec!["a".into(), "b".into()])));
    assert_eq!(health_command(r#"["CMD-SHELL", "a b"]"#), Ok(Probe::Shell("a b".into())));
    assert_eq!(health_command("[ -f /ready ]"), Ok(Probe::Shell("[ -f /ready ]".into())));
    assert_eq!(health_command(r#"["NONE"]"#), Ok(Probe::Disabled));
    assert!(health_command("[]").is_err() && health_command(" ").is_err());
    assert_eq!(statuses("200,301-399"), Ok(vec![(200, 200), (301, 399)]));
    assert!(statuses("ok").is_err() && statuses("").is_err() && statuses("200-").is_err());
    assert_eq!(header("X-A:  b:c "), Ok(("X-A".into(), "b:c".into())));
    assert!(header("x").is_err() && header(": x").is_err());
    assert_eq!(host_entry("a:[::1]"), host_entry("a=::1"));
    for text in ["a", ":10.0.0.1", "a:host-gateway", "a:300.0.0.1"] {
        assert!(host_entry(text).unwrap_err().to_string().contains("NAME:IP"), "{text}");
    }
    for text in ["", "/dev/a:/b:x", "/dev/a:/b:r:w", ":/b", "/dev/a:/b:"] {
        assert!(text.parse::<Device>().is_err(), "{text}");
    }
    assert_eq!("/dev/a:mr".parse::<Device>().map(|d| d.access), Ok("rm".into()));
    for text in ["nofile", "nofile=", "nofile=1:", "nofile=-2", "=1", "nofile=+1", "nofile=1:2:3"] {
        assert!(text.parse::<Ulimit>().is_err(), "{text}");
    }
    assert_eq!(sysctl("net/ipv4/conf/eth0.1/x=1"), Ok(("net.ipv4.conf.eth0/1.x".into(), "1".into())));
    assert!(sysctl("net.x").is_err() && capability("").is_err() && capability("NET ADMIN").is_err());
    for text in ["seccomp", "seccomp=", "label=disable", "no-new-privileges=perhaps", "credentialspec=x"] {
        let e = text.parse::<SecurityOption>().unwrap_err().to_string();
        assert!(e.contains("bad security option"), "{e}");
    }
}
