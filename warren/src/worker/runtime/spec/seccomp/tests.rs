use super::*;
use crate::worker::runtime::spec::tests::host;

fn facts(capabilities: &[&str], architecture: &'static str) -> Facts<'static> {
    Facts {
        architecture,
        capabilities: capabilities.iter().map(|c| format!("CAP_{c}")).collect(),
        kernel: (6, 1),
    }
}

/// Names of the rules that are taken, without those that look at arguments.
fn allowed(filter: &oci::LinuxSeccomp) -> Vec<String> {
    let calls = filter.syscalls().as_ref().unwrap();
    let plain =
        calls.iter().filter(|c| c.args().is_none() && c.action() == oci::LinuxSeccompAction::ScmpActAllow);
    plain.flat_map(|c| c.names().clone()).collect()
}

fn default(capabilities: &[&str], architecture: &'static str) -> oci::LinuxSeccomp {
    resolve(default::profile(), &facts(capabilities, architecture), Some(oci::Arch::ScmpArchX86_64)).unwrap()
}

#[test]
fn the_default_list_opens_with_capabilities_and_machines() {
    let plain = allowed(&default(&["CHOWN"], "amd64"));
    for (name, is) in [
        ("read", true),
        ("ptrace", true),
        ("arch_prctl", true),
        ("mount", false),
        ("unshare", false),
        ("keyctl", false),
        ("add_key", false),
        ("bpf", false),
        ("reboot", false),
        ("io_uring_setup", false),
        ("cacheflush", false),
    ] {
        assert_eq!(plain.iter().any(|n| n == name), is, "{name}");
    }
    let admin = allowed(&default(&["SYS_ADMIN"], "amd64"));
    for name in ["mount", "unshare", "setns", "clone3", "clone"] {
        assert!(admin.iter().any(|n| n == name), "{name}");
    }
    assert!(allowed(&default(&[], "arm64")).iter().any(|n| n == "cacheflush"));
    assert!(!allowed(&default(&[], "arm64")).iter().any(|n| n == "arch_prctl"));
}

#[test]
fn without_the_capability_no_namespaces_are_made() {
    let of = |filter: &oci::LinuxSeccomp, name: &str| {
        let calls = filter.syscalls().clone().unwrap();
        calls.into_iter().filter(|c| c.names().iter().any(|n| n == name)).collect::<Vec<_>>()
    };
    let plain = default(&[], "amd64");
    let [clone] = of(&plain, "clone").try_into().unwrap();
    let [argument] = clone.args().clone().unwrap().try_into().unwrap();
    assert_eq!((argument.index(), argument.value(), argument.value_two()), (0, 0x7e02_0000, Some(0)));
    let [clone3] = of(&plain, "clone3").try_into().unwrap();
    assert_eq!((clone3.action(), clone3.errno_ret()), (oci::LinuxSeccompAction::ScmpActErrno, Some(38)));
    let [clone] = of(&default(&[], "s390x"), "clone").try_into().unwrap();
    assert_eq!(clone.args().clone().unwrap()[0].index(), 1);
    let architectures = plain.architectures().clone().unwrap();
    assert_eq!(architectures.len(), 3, "programs of x86 and x32 run too: {architectures:?}");
}

#[test]
fn names_are_listed_once() {
    let names = allowed(&default(&[], "amd64"));
    let mut seen = std::collections::BTreeSet::new();
    let twice: Vec<_> = names.iter().filter(|n| !seen.insert(*n)).collect();
    assert_eq!(twice, [] as [&String; 0]);
}

fn custom(json: &str) -> Result<oci::LinuxSeccomp, SpecError> {
    let profile: Profile = serde_json::from_str(json).map_err(refused)?;
    resolve(profile, &facts(&["CHOWN"], "amd64"), Some(oci::Arch::ScmpArchX86_64))
}

#[test]
fn profiles_are_taken_as_docker_takes_them() {
    let filter = custom(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":null,"architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[
              {"name":"mkdir","action":"SCMP_ACT_ERRNO","args":[]},
              {"names":["chmod","fchmod"],"action":"SCMP_ACT_ERRNO","errnoRet":5,"comment":"",
               "includes":{},"excludes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["a"],"action":"SCMP_ACT_ERRNO","includes":{"minKernel":"7.0"}},
              {"names":["b"],"action":"SCMP_ACT_ERRNO","excludes":{"minKernel":"4.8"}},
              {"names":["c"],"action":"SCMP_ACT_ERRNO","includes":{"caps":["CAP_CHOWN","CAP_KILL"]}},
              {"names":["d"],"action":"SCMP_ACT_ERRNO","excludes":{"arches":["amd64"]}}
            ]}"#,
    )
    .unwrap();
    let names: Vec<_> = filter.syscalls().iter().flatten().map(|c| c.names().join(" ")).collect();
    assert_eq!(names, ["mkdir", "chmod fchmod"]);
    let json = serde_json::to_value(&filter).unwrap();
    assert_eq!(json["syscalls"][1]["errnoRet"], 5);
    assert_eq!(json["syscalls"][0].get("args"), None);
}

#[test]
fn a_profile_that_makes_no_sense_is_refused() {
    for (json, says) in [
        ("{", "cannot be read"),
        (r#"{"defaultAction":"SCMP_ACT_NOPE"}"#, "SCMP_ACT_NOPE"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
                "archMap":[{"architecture":"SCMP_ARCH_X86","subArchitectures":null}]}"#,
            "both",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],
                "action":"SCMP_ACT_ERRNO"}]}"#,
            "the rule of a",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a",
                "action":"SCMP_ACT_ERRNO","includes":{"minKernel":"new"}}]}"#,
            "\"new\"",
        ),
    ] {
        let security = Security { seccomp: Seccomp::Profile(json.to_owned()), ..Security::default() };
        let why = filter(&security, &oci::Process::default(), &host()).unwrap_err().to_string();
        assert!(why.contains("--security-opt seccomp") && why.contains(says), "{why}");
    }
}

#[test]
fn the_privileged_and_the_unconfined_have_no_filter() {
    let process = oci::Process::default();
    for security in [
        Security { seccomp: Seccomp::Unconfined, ..Security::default() },
        Security { privileged: true, ..Security::default() },
        Security { privileged: true, seccomp: Seccomp::Profile("{}".to_owned()), ..Security::default() },
    ] {
        assert_eq!(filter(&security, &process, &host()), Ok(None), "{security:?}");
    }
    assert!(filter(&Security::default(), &process, &host()).unwrap().is_some());
    let without = Host { seccomp: false, ..host() };
    assert_eq!(filter(&Security::default(), &process, &without), Ok(None));
    let asked = Security {
        seccomp: Seccomp::Profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.into()),
        ..Security::default()
    };
    assert!(filter(&asked, &process, &without).is_err());
}
