//! Room on the disk: when it gets short, images that nobody needs go, those first that were not
//! needed for the longest time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use containerd_client::services::v1::{Image, ListImagesRequest, UpdateImageRequest};
use prost_types::FieldMask;

use super::{ImageError, ImageStore};
use crate::{
    model::{ImageReference, Timestamp},
    worker::runtime::client::{SHORT, already, call},
};

/// On an image: when it was last seen in use, in Unix milliseconds.
const USED: &str = "warren.used";
/// How exactly that is known.
const GRAIN: Duration = Duration::from_secs(600);

/// How full a disk may get, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// From here on images are removed. 100 for never.
    pub high: u8,
    /// Until it is less full than this.
    pub low: u8,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { high: 85, low: 80 }
    }
}

/// A file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Used.
    pub used: u64,
    /// All that can be used.
    pub total: u64,
}

impl Disk {
    /// The one that `path` is on. What only root may still use does not count, as `df` counts.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let s = nix::sys::statvfs::statvfs(path)?;
        let size = s.fragment_size();
        let used = s.blocks().saturating_sub(s.blocks_free()).saturating_mul(size);
        Ok(Self { used, total: used.saturating_add(s.blocks_available().saturating_mul(size)) })
    }

    fn is_below(self, percent: u8) -> bool {
        u128::from(self.used) * 100 < u128::from(self.total) * u128::from(percent)
    }
}

/// An image that may have to go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    reference: ImageReference,
    used_at: Timestamp,
    in_use: bool,
}

/// Which image to remove next, if any. `begun` tells whether this pass has removed some already:
/// then it goes on below the high mark, down to the low one.
fn next(disk: Disk, marks: Watermarks, begun: bool, images: &[Candidate]) -> Option<&ImageReference> {
    let limit = if begun { marks.low } else { marks.high };
    if marks.high >= 100 || disk.is_below(limit) {
        return None;
    }
    let free = images.iter().filter(|i| !i.in_use);
    free.min_by_key(|i| (i.used_at, &i.reference)).map(|i| &i.reference)
}

impl ImageStore {
    /// One pass: notes which images are in use, and makes room if there is too little. Returns
    /// what it removed. `disk` is asked anew after each removal.
    pub async fn make_room(
        &self,
        marks: Watermarks,
        now: Timestamp,
        in_use: impl Fn() -> BTreeSet<ImageReference> + Send,
        disk: impl Fn() -> std::io::Result<Disk> + Send,
    ) -> Result<Vec<ImageReference>, ImageError> {
        self.sweep_pulls().await?;
        let mut removed = Vec::new();
        loop {
            let changes = self.changes.lock().await;
            let images = self.candidates(&in_use(), now).await?;
            let Some(going) = next(disk()?, marks, !removed.is_empty(), &images) else { break };
            tracing::info!(image = %going, "removed, because the disk is getting full and nobody needs it");
            self.delete(going, true).await?;
            removed.push(going.clone());
            // Whoever waits for a change gets its turn.
            drop(changes);
        }
        Ok(removed)
    }

    /// All images, with when they were last in use; what is in use now is noted.
    async fn candidates(
        &self,
        in_use: &BTreeSet<ImageReference>,
        now: Timestamp,
    ) -> Result<Vec<Candidate>, ImageError> {
        let r = ListImagesRequest { filters: Vec::new() };
        let images = call(SHORT, self.client.images().list(self.client.request(r))).await?.images;
        let mut list = Vec::new();
        for image in images {
            let Ok(reference) = image.name.parse::<ImageReference>() else { continue };
            let made = image.created_at.as_ref().map_or(0, |t| t.seconds.saturating_mul(1000));
            let made = Timestamp(u64::try_from(made).unwrap_or_default());
            let noted = image.labels.get(USED).and_then(|t| t.parse().ok()).map(Timestamp);
            let in_use = in_use.contains(&reference);
            if in_use && noted.is_none_or(|at| now.since(at) > GRAIN) {
                self.note(image, now).await?;
            }
            list.push(Candidate { reference, used_at: noted.unwrap_or(made).max(made), in_use });
        }
        Ok(list)
    }

    async fn note(&self, image: Image, now: Timestamp) -> Result<(), ImageError> {
        let labels = BTreeMap::from([(USED.to_owned(), now.0.to_string())]).into_iter().collect();
        let mask = FieldMask { paths: vec![format!("labels.{USED}")] };
        let r = UpdateImageRequest {
            image: Some(Image { labels, ..image }),
            update_mask: Some(mask),
            source_date_epoch: None,
        };
        Ok(already(call(SHORT, self.client.images().update(self.client.request(r))).await)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn images(list: &[(&str, u64, bool)]) -> Vec<Candidate> {
        let candidate = |&(name, used_at, in_use): &(&str, u64, bool)| Candidate {
            reference: name.parse().unwrap(),
            used_at: Timestamp(used_at),
            in_use,
        };
        list.iter().map(candidate).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first_and_only_while_the_disk_is_too_full() {
        let all = images(&[("new", 9, false), ("needed", 1, true), ("old", 2, false)]);
        let marks = Watermarks::default();
        let at =
            |used, begun| next(Disk { used, total: 1000 }, marks, begun, &all).map(ImageReference::familiar);
        assert_eq!(at(849, false), None);
        assert_eq!(at(850, false), Some("old:latest".to_owned()));
        assert_eq!(at(849, true), Some("old:latest".to_owned()), "it goes on");
        assert_eq!(at(799, true), None);
        let never = Watermarks { high: 100, low: 90 };
        assert_eq!(next(Disk { used: 1000, total: 1000 }, never, false, &all), None);
        assert_eq!(next(Disk { used: 9, total: 10 }, marks, false, &images(&[("a", 1, true)])), None);
    }

    proptest! {
        #[test]
        fn what_is_in_use_never_goes(
            used in 0u64..1000, begun: bool, high in 1u8..=100,
            list in proptest::collection::vec((0u64..9, any::<bool>()), 0..6),
        ) {
            let names: Vec<String> = (0..list.len()).map(|n| format!("image{n}")).collect();
            let list: Vec<_> = list.iter().zip(&names).map(|((at, u), n)| (n.as_str(), *at, *u)).collect();
            let all = images(&list);
            let marks = Watermarks { high, low: high - 1 };
            if let Some(going) = next(Disk { used, total: 1000 }, marks, begun, &all) {
                let going = all.iter().find(|i| i.reference == *going).unwrap();
                prop_assert!(!going.in_use);
                prop_assert!(all.iter().all(|i| i.in_use || i.used_at >= going.used_at));
            }
        }
    }
}
