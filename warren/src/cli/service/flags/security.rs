//! What a container may do to its node.

use anyhow::Context as _;

use crate::model::{Seccomp, TaskSpec, parse::SecurityOption};

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Security")]
pub(super) struct Security {
    /// Make the root file system read-only.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    read_only: Option<bool>,
    /// Allow everything: all capabilities and devices, no seccomp, nothing masked.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    privileged: Option<bool>,
    /// no-new-privileges[=BOOL], seccomp=unconfined|builtin|FILE, apparmor=PROFILE or
    /// systempaths=unconfined|confined; may be given several times.
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<SecurityOption>,
}

impl Security {
    pub(super) fn apply(&self, task: &mut TaskSpec) -> anyhow::Result<()> {
        task.read_only = self.read_only.unwrap_or(task.read_only);
        let s = &mut task.security;
        s.privileged = self.privileged.unwrap_or(s.privileged);
        for option in &self.security_opt {
            match option {
                SecurityOption::NoNewPrivileges(on) => s.no_new_privileges = *on,
                SecurityOption::SeccompDefault => s.seccomp = Seccomp::Default,
                SecurityOption::SeccompUnconfined => s.seccomp = Seccomp::Unconfined,
                SecurityOption::SeccompFile(file) => {
                    let profile = std::fs::read_to_string(file)
                        .with_context(|| format!("cannot read the seccomp profile {file}"))?;
                    s.seccomp = Seccomp::Profile(profile);
                }
                SecurityOption::AppArmor(profile) => s.apparmor.clone_from(profile),
                SecurityOption::UnmaskedPaths(on) => s.unmasked_paths = *on,
            }
        }
        Ok(())
    }
}
