//! Pulls from a real registry into a real containerd.

use std::collections::BTreeSet;

use super::fixture::{TestNode, binary, eventually, test_image};
use crate::{
    model::{ImageReference, PullPolicy, RegistryAuth},
    worker::{
        executor::{ContainerState, Runtime, RuntimeError},
        runtime::{
            image::{ImageError, ImageInfo, When},
            testing::{TestFile, TestImage, proxy::Proxy, registry::TestRegistry, task},
        },
    },
};

impl TestNode {
    async fn pull(&self, image: &str) -> Result<ImageInfo, ImageError> {
        self.pull_as(image, None).await
    }

    async fn pull_as(&self, image: &str, who: Option<(&str, &str)>) -> Result<ImageInfo, ImageError> {
        let reference: ImageReference = image.parse().unwrap();
        let credentials = who.map(|(name, password)| RegistryAuth {
            server: reference.registry().to_owned(),
            username: name.to_owned(),
            password: password.to_owned(),
            identity_token: String::new(),
        });
        self.containerd.images().pull(&reference, When::Always, credentials.as_ref()).done().await
    }
}

/// Bytes that do not pack, the same for the same seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn every_kind_of_image_is_pulled_and_runs() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    let kinds: [(&str, fn(&mut TestImage)); 5] = [
        ("plain", |_| {}),
        ("gzip", |i| i.gzip = true),
        ("zstd", |i| i.zstd = true),
        ("docker", |i| i.docker_types = true),
        ("dockergz", |i| (i.docker_types, i.gzip) = (true, true)),
    ];
    for (number, (kind, change)) in kinds.into_iter().enumerate() {
        let mut image = test_image();
        change(&mut image);
        let digest = registry.put(&format!("some/{kind}"), "1", &image);
        let name = registry.name(&format!("some/{kind}:1"));
        let info = node.pull(&name).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(info.digest, digest, "{kind}");
        let by_digest = registry.name(&format!("some/{kind}@{digest}"));
        assert_eq!(node.pull(&by_digest).await.unwrap().digest, digest, "{kind}");

        let mut task = task(number as u128, crate::model::TaskSpec::new(name.parse().unwrap()));
        task.spec.args = vec!["sleep".to_owned()];
        node.containerd.prepare(&task, &node.network).await.unwrap();
        let pid = node.containerd.start(task.id).await.unwrap();
        assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }), "{kind}");
        node.containerd.remove(task.id).await.unwrap();
    }
    // All of it goes again.
    let pruned = node.containerd.images().prune(BTreeSet::new, false).await.unwrap();
    assert_eq!(pruned.images.len(), 2 * kinds.len());
    assert_eq!((node.snapshots(), node.blobs()), (0, 0));
}
