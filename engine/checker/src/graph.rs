//! Directed graphs, and the circles in them.
//!
//! Tarjan's algorithm (SIAM J. Comput. 1972) with a stack of its own: a history's chains are longer than a thread's
//! stack is deep.

use std::collections::{BTreeMap, BTreeSet};

/// Edges by the node that they begin at.
pub(crate) type Graph = BTreeMap<u64, BTreeSet<u64>>;

/// What is known of a node that was reached.
struct Mark {
    /// In the order of reaching.
    index: usize,
    /// The lowest index on the stack that can be reached from it.
    low: usize,
    on_stack: bool,
}

/// The strongly connected components of more than one node, and nodes with an edge to themselves.
pub(crate) fn circles(graph: &Graph) -> Vec<BTreeSet<u64>> {
    let mut search = Search::default();
    for node in graph.keys() {
        if !search.marks.contains_key(node) {
            search.from(graph, *node);
        }
    }
    search.found
}

#[derive(Default)]
struct Search {
    marks: BTreeMap<u64, Mark>,
    stack: Vec<u64>,
    found: Vec<BTreeSet<u64>>,
}

impl Search {
    fn from(&mut self, graph: &Graph, root: u64) {
        let none = BTreeSet::new();
        let next = |node: u64| graph.get(&node).unwrap_or(&none).iter();
        self.reach(root);
        let mut path = vec![(root, next(root))];
        while let Some((node, edges)) = path.last_mut() {
            let node = *node;
            let Some(to) = edges.next().copied() else {
                path.pop();
                self.leave(graph, node, path.last().map(|(parent, _)| *parent));
                continue;
            };
            match self.marks.get(&to) {
                None => {
                    self.reach(to);
                    path.push((to, next(to)));
                }
                Some(mark) if mark.on_stack => {
                    let index = mark.index;
                    self.lower(node, index);
                }
                Some(_) => {}
            }
        }
    }

    fn reach(&mut self, node: u64) {
        let index = self.marks.len();
        self.marks.insert(node, Mark { index, low: index, on_stack: true });
        self.stack.push(node);
    }

    fn lower(&mut self, node: u64, low: usize) {
        let mark = self.marks.get_mut(&node).expect("a node on the path was reached");
        mark.low = mark.low.min(low);
    }

    /// All edges of `node` are gone through: if it is the root of a component, that is taken off the stack.
    fn leave(&mut self, graph: &Graph, node: u64, parent: Option<u64>) {
        let Mark { index, low, .. } = self.marks[&node];
        if let Some(parent) = parent {
            self.lower(parent, low);
        }
        if low != index {
            return;
        }
        let mut component = BTreeSet::new();
        loop {
            let member = self.stack.pop().expect("a root is on the stack below its component");
            self.marks.get_mut(&member).expect("it was reached").on_stack = false;
            component.insert(member);
            if member == node {
                break;
            }
        }
        let to_itself = graph.get(&node).is_some_and(|edges| edges.contains(&node));
        if component.len() > 1 || to_itself {
            self.found.push(component);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_of(edges: &[(u64, u64)]) -> Vec<Vec<u64>> {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry(*from).or_default().insert(*to);
        }
        let mut found: Vec<Vec<u64>> = circles(&graph).into_iter().map(|found| found.into_iter().collect()).collect();
        found.sort();
        found
    }

    #[test]
    fn circles_are_found_and_nothing_else() {
        assert_eq!(circles_of(&[(1, 2), (2, 3), (1, 3), (4, 3)]), Vec::<Vec<u64>>::new());
        assert_eq!(circles_of(&[(1, 1)]), [[1]]);
        assert_eq!(circles_of(&[(1, 2), (2, 1), (2, 3), (3, 4), (4, 5), (5, 3)]), [vec![1, 2], vec![3, 4, 5]]);
        // Two circles that share a node are one component; what leads in or out is not of it.
        assert_eq!(circles_of(&[(0, 1), (1, 2), (2, 1), (2, 3), (3, 2), (3, 9)]), [[1, 2, 3]]);
    }

    #[test]
    fn long_chains_need_no_deep_stack() {
        let mut edges: Vec<_> = (0..100_000).map(|node| (node, node + 1)).collect();
        assert!(circles_of(&edges).is_empty());
        edges.push((100_000, 0));
        assert_eq!(circles_of(&edges)[0].len(), 100_001);
    }
}
