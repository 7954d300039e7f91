//! Which core does what.
//!
//! The invariant of a plan: each shard has a core of its own, and all cores are among those that the process
//! may use. It does not start anything.

use std::fmt;

/// Which core each part of the node runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorePlan {
    /// The cores of the shards, shard 0 first. Never empty.
    pub shards: Vec<usize>,
    /// The core of the metadata; it may be a shard's too.
    pub metadata: usize,
}

/// With fewer cores than these, the metadata shares one with the last shard.
const CORES_FOR_METADATA: usize = 4;

impl CorePlan {
    /// Plans for the `available` cores: `wanted` of them (all if none are named), `metadata` for the metadata.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what there is.
    pub fn new(available: &[usize], wanted: Option<&[usize]>, metadata: Option<&[usize]>) -> Result<CorePlan, String> {
        let metadata = match metadata {
            None => None,
            Some([one]) => Some(*one),
            Some(_) => {
                return Err("--metadata-cores takes one core: this node runs one member of the metadata quorum.".into());
            }
        };
        let mut shards = wanted.unwrap_or(available).to_vec();
        for core in shards.iter().chain(&metadata) {
            if !available.contains(core) {
                return Err(format!(
                    "Core {core} is not available to this process; available are {}. \
                     Name some of them with --cores.",
                    CoreList(available)
                ));
            }
        }
        if wanted.is_none() && metadata.is_some() && shards.len() > 1 {
            shards.retain(|core| Some(*core) != metadata);
        }
        let last = *shards.last().ok_or("There is no core to run on: name some with --cores.")?;
        if metadata.is_none() && shards.len() >= CORES_FOR_METADATA {
            shards.pop();
        }
        Ok(CorePlan { shards, metadata: metadata.unwrap_or(last) })
    }

    /// Whether the metadata shares a core with a shard.
    pub fn metadata_shares(&self) -> bool {
        self.shards.contains(&self.metadata)
    }

    /// Every part's core: the shards', then the metadata's.
    pub fn all(&self) -> Vec<usize> {
        self.shards.iter().copied().chain([self.metadata]).collect()
    }
}

impl fmt::Display for CorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = CoreList(&self.shards);
        match self.metadata_shares() {
            true => write!(f, "shards on cores {shards}, metadata on core {} with a shard", self.metadata),
            false => write!(f, "shards on cores {shards}, metadata on core {}", self.metadata),
        }
    }
}

/// Cores as people write them: `0-3,6`.
pub struct CoreList<'a>(pub &'a [usize]);

impl fmt::Display for CoreList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        for (i, run) in runs.enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

/// Reads a list of cores such as `0-3,6`.
///
/// # Errors
/// A sentence that says which part is not understood, or which core is named twice.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let number = text.trim().parse::<usize>().ok().filter(|core| *core < MOST_CORES);
            number.ok_or_else(|| format!("\"{part}\" is not a core or a range of cores; write for example 0-3,6"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("the range \"{part}\" runs backwards"));
        }
        for core in first..=last {
            if cores.contains(&core) {
                return Err(format!("core {core} is named twice"));
            }
            cores.push(core);
        }
    }
    Ok(cores)
}

/// More than any machine has; bounds what a range may ask for.
const MOST_CORES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_alike() {
        assert_eq!(parse_cores("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(CoreList(&[0, 1, 2, 3, 6]).to_string(), "0-3,6");
        assert_eq!(parse_cores("5"), Ok(vec![5]));
        for bad in ["", "a", "3-1", "1,1", "0-2,1", "1-", "-1", "0-99999999"] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_has_a_core_of_its_own_from_four_on() {
        let plan = |available: &[usize]| CorePlan::new(available, None, None).expect("a plan");
        assert_eq!(plan(&[0, 1, 2, 3]), CorePlan { shards: vec![0, 1, 2], metadata: 3 });
        assert_eq!(plan(&[0, 1]), CorePlan { shards: vec![0, 1], metadata: 1 });
        assert!(plan(&[0, 1]).metadata_shares());
        assert_eq!(plan(&[7]).all(), [7, 7]);
        assert_eq!(plan(&[0, 1, 2, 3]).to_string(), "shards on cores 0-2, metadata on core 3");
    }

    #[test]
    fn what_is_named_is_taken() {
        let plan = |wanted: &[usize], metadata: &[usize]| CorePlan::new(&[0, 1, 2, 3, 4], Some(wanted), Some(metadata));
        assert_eq!(plan(&[1, 2], &[0]), Ok(CorePlan { shards: vec![1, 2], metadata: 0 }));
        assert_eq!(plan(&[1, 2], &[2]), Ok(CorePlan { shards: vec![1, 2], metadata: 2 }));
        assert_eq!(CorePlan::new(&[0, 1, 2], None, Some(&[1])), Ok(CorePlan { shards: vec![0, 2], metadata: 1 }));
        let error = plan(&[1, 9], &[0]).expect_err("core 9 is absent");
        assert!(error.contains("Core 9") && error.contains("0-4"), "{error}");
    }
}
