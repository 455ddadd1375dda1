//! How far a pull is.

use indicatif::HumanBytes;

/// What becomes of a layer, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerState {
    /// Its turn has not come.
    Waiting,
    /// Its bytes are coming.
    Downloading,
    /// All of them are here, and each is as it should be.
    Downloaded,
    /// Its files are being made.
    Unpacking,
    /// Its files are made.
    Done,
    /// It was here before.
    Present,
}

impl LayerState {
    /// The word on the wire and for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Downloading => "downloading",
            Self::Downloaded => "downloaded",
            Self::Unpacking => "unpacking",
            Self::Done => "done",
            Self::Present => "present",
        }
    }
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Which.
    pub digest: String,
    /// What is being done with it.
    pub state: LayerState,
    /// Bytes that are here.
    pub done: u64,
    /// All of its bytes.
    pub total: u64,
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// The lowest first; empty until the registry has said what the image is.
    pub layers: Vec<LayerProgress>,
    /// What else there was to say (mirrors that failed, tries that did), in order.
    pub messages: Vec<String>,
}

impl PullProgress {
    /// One line for a task's status.
    #[must_use]
    pub fn summary(&self, image: &str) -> String {
        let Some(total) = self.layers.iter().map(|l| l.total).reduce(u64::saturating_add) else {
            return match self.messages.last() {
                Some(m) => format!("pulling {image}: {m}"),
                None => format!("pulling {image}: asking its registry"),
            };
        };
        let done: u64 = self.layers.iter().map(|l| l.done).sum();
        if self.layers.iter().all(|l| l.state >= LayerState::Downloaded) {
            let unpacked = self.layers.iter().filter(|l| l.state >= LayerState::Done).count();
            return format!("pulling {image}: unpacked {unpacked} of {} layers", self.layers.len());
        }
        format!("pulling {image}: {} of {}", HumanBytes(done), HumanBytes(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut p = PullProgress::default();
        assert_eq!(p.summary("web:1"), "pulling web:1: asking its registry");
        p.messages.push("mirror: gone".to_owned());
        assert_eq!(p.summary("web:1"), "pulling web:1: mirror: gone");
        let layer = |state, done| LayerProgress { digest: String::new(), state, done, total: 3 << 20 };
        p.layers = vec![layer(LayerState::Present, 3 << 20), layer(LayerState::Downloading, 1 << 19)];
        assert_eq!(p.summary("web:1"), "pulling web:1: 3.50 MiB of 6.00 MiB");
        p.layers[1] = layer(LayerState::Unpacking, 3 << 20);
        assert_eq!(p.summary("web:1"), "pulling web:1: unpacked 1 of 2 layers");
    }
}
