//! What no compiler checks: the direction of the layers, where sockets and threads may be made, and that the README speaks of files that exist.

use std::path::{Path, PathBuf};

/// Each layer and the modules of the engine that it may use.
const LAYERS: [(&str, &[&str]); 8] = [
    ("io", &["limits"]),
    ("record", &["limits"]),
    ("protocol", &["limits", "io", "record"]),
    ("log", &["limits", "io", "record", "protocol", "planted"]),
    ("replication", &["limits", "io", "record", "protocol"]),
    ("controller", &["limits", "io", "record", "protocol"]),
    ("coordinator", &["limits", "io", "record", "protocol", "planted"]),
    ("shard", &["limits", "io", "record", "protocol", "log", "replication", "controller", "coordinator", "planted"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine is in the workspace").to_owned()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a source folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn layers_point_one_way() {
    let mut wrong = Vec::new();
    for (layer, allowed) in LAYERS {
        for file in sources(&root().join("engine/src").join(layer)) {
            let text = std::fs::read_to_string(&file).expect("a source file");
            // Tests may use what they like.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let is_test = file.components().any(|part| part.as_os_str().to_string_lossy().starts_with("tests"));
            for (number, line) in code.lines().enumerate().filter(|_| !is_test) {
                let Some((_, rest)) = line.split_once("crate::") else { continue };
                let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = LAYERS.iter().any(|(name, _)| *name == used);
                if known && used != layer && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{}:{}: {layer} uses {used}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where sockets and threads of the standard library may be used: in the backend of Io, and where the metrics are served,
/// on a thread beside the cores.
const BESIDE_IO: [&str; 3] = ["engine/src/io/ring", "engine/src/io/uring", "server/src/metrics.rs"];

#[test]
fn only_the_metrics_go_round_io() {
    let mut wrong = Vec::new();
    for file in ["engine/src", "server/src"].into_iter().flat_map(|folder| sources(&root().join(folder))) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let path = file.strip_prefix(root()).expect("it is below the root");
        let uses = ["TcpListener", "TcpStream", "UdpSocket", "thread::Builder", "spawn_beside("];
        if !BESIDE_IO.iter().any(|allowed| path.starts_with(allowed)) && uses.iter().any(|used| code.contains(used)) {
            wrong.push(path.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn paths_of_the_readme_exist() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let quoted = readme.split('`').skip(1).step_by(2);
    let folders = ["engine/", "server/", "loadgen/", "scripts/", "bench-results/", ".ci/"];
    let paths: Vec<_> = quoted.filter(|path| folders.iter().any(|folder| path.starts_with(folder))).collect();
    assert!(paths.len() > 15, "the README names the walk");
    let missing: Vec<_> = paths.into_iter().filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "the README names what is not there: {missing:?}");
}
