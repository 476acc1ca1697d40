//! Sorts the images of a push into repositories, and into groups of the same blobs in one repository.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use super::image_state::Group;
use super::put_manifest::Written;
use super::request::PushItem;
use super::together::Tagged;
use crate::image::tree::ImageTree;

/// A repository at the destination. A repository takes one manifest at a time, since some registries fail on concurrent puts.
#[derive(Default)]
pub(super) struct Repository {
    pub(super) name: String,
    pub(super) written: Written,
    pub(super) busy: bool,
    pub(super) ready: VecDeque<usize>,
    pub(super) tagged: Tagged,
}

/// A tree, and the numbers of the groups of images with its blobs.
pub(super) type TreeGroups = (Arc<ImageTree>, Vec<usize>);

/// Repositories and groups, while images are added.
pub(super) struct Grouping<K> {
    pub(super) repositories: Vec<Repository>,
    pub(super) groups: Vec<Group>,
    trees: Vec<TreeGroups>,
    numbers: HashMap<String, usize>,
    places: HashMap<K, usize>,
    group_numbers: HashMap<(usize, usize), usize>,
    key: fn(&ImageTree) -> K,
}

impl<K: Eq + Hash> Grouping<K> {
    /// Returns a grouping without images; `key` is equal for trees that name the same blobs.
    pub(super) fn new(key: fn(&ImageTree) -> K) -> Self {
        Self {
            repositories: Vec::new(),
            groups: Vec::new(),
            trees: Vec::new(),
            numbers: HashMap::new(),
            places: HashMap::new(),
            group_numbers: HashMap::new(),
            key,
        }
    }

    /// Returns the numbers of an image's repository and group, which are added if they are new.
    pub(super) fn add(&mut self, item: &PushItem) -> (usize, usize) {
        let name = item.destination.repository();
        let known = self.numbers.get(name).copied();
        let repository = known.unwrap_or_else(|| {
            self.repositories.push(Repository {
                name: name.to_owned(),
                ..Repository::default()
            });
            self.numbers.insert(name.to_owned(), self.repositories.len() - 1);
            self.repositories.len() - 1
        });
        let place = *self.places.entry((self.key)(&item.tree)).or_insert_with(|| {
            self.trees.push((item.tree.clone(), Vec::new()));
            self.trees.len() - 1
        });
        let group = *self.group_numbers.entry((repository, place)).or_insert_with(|| {
            self.groups.push(Group {
                repository,
                ..Group::default()
            });
            self.trees[place].1.push(self.groups.len() - 1);
            self.groups.len() - 1
        });
        (repository, group)
    }

    /// Returns the repositories, the groups, and the trees with different blobs. What is only needed to add images is dropped.
    pub(super) fn into_parts(self) -> (Vec<Repository>, Vec<Group>, Vec<TreeGroups>) {
        (self.repositories, self.groups, self.trees)
    }
}
