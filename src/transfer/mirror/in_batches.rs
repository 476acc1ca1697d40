//! Waits for images that are resolved one after the other, and pushes them in batches.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;

use tokio::sync::mpsc;

use super::push_trees::Ends;
use crate::error::{Error, Result};
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::inventory::lock::Lock;
use crate::progress::{Event, Phase, Progress};
use crate::registry::Registries;
use crate::text::{Warnings, counted, few};
use crate::transfer::push::destination;
use crate::transfer::push::report::{ImageReport, PushReport};
use crate::transfer::push::request::{PushItem, PushRequest};
use crate::transfer::resolve::Resolver;
use crate::transfer::wait::within_five_seconds;

/// Resolves images and pushes them to the destination.
///
/// `sources` and `destinations` must have limits of their own, as two values of [`Registries::new`] do: an upload that waits for
/// bytes of its own host would wait for a place that only itself gives back.
///
/// All images are resolved before the first blob is sent. Only images of a registry that does not answer or fails are not
/// waited for: if none of them is resolved [within five seconds](within_five_seconds), the resolved images are pushed first,
/// without those that need further requests. Images resolved meanwhile wait for the end of that push.
///
/// # Errors
/// Those of [`mirror`](super::mirror).
pub async fn resolve_and_mirror(
    resolver: &Resolver,
    images: &[Reference],
    sources: &Registries,
    request: PushRequest,
    destinations: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let (sender, resolved) = mpsc::unbounded_channel();
    let resolving = async move {
        let send = move |number: usize, tree: Result<ImageTree>| drop(sender.send((number, tree)));
        Box::pin(resolver.resolve_each(images, &send)).await;
        // The channel ends here, and the push after it.
        drop(send);
        std::future::pending::<Infallible>().await
    };
    let run = Run {
        resolver,
        images,
        ends: Ends {
            sources,
            request: &request,
            destinations,
            progress: &progress,
        },
    };
    tokio::select! {
        report = run.push_resolved(resolved) => report,
        never = resolving => match never {},
    }
}

/// The number of a requested image, and its tree or error.
type Resolved = (usize, Result<ImageTree>);

/// A one-step mirror.
struct Run<'a> {
    resolver: &'a Resolver,
    images: &'a [Reference],
    ends: Ends<'a>,
}

impl Run<'_> {
    /// Pushes the images that arrive: all at once, unless some of them take long to be resolved.
    async fn push_resolved(&self, mut resolved: mpsc::UnboundedReceiver<Resolved>) -> Result<PushReport> {
        let (request, progress) = (self.ends.request, self.ends.progress);
        let may_split = may_split(self.images, request);
        let mut pushed = Pushed::new(self.images);
        let mut pushed_before: Vec<PushItem> = Vec::new();
        let mut held_back: Vec<Resolved> = Vec::new();
        loop {
            let (mut batch, is_last) = next_batch(&mut resolved, may_split).await;
            if is_last {
                batch.append(&mut held_back);
            } else {
                batch = self.hold_back(batch, &mut held_back);
                if batch.is_empty() {
                    continue;
                }
            }
            batch.sort_by_key(|(number, _)| *number);
            let is_whole = is_last && batch.len() == self.images.len();
            let (numbers, mut trees): (Vec<usize>, Vec<_>) = batch.into_iter().unzip();
            let references: Vec<Reference> = numbers.iter().map(|number| self.images[*number].clone()).collect();
            if is_last {
                Box::pin(self.resolver.check(&references, &mut trees)).await;
                pushed.mark_doubted(self.resolver, progress);
            } else {
                progress.info(pushed.unresolved(&numbers));
            }
            let is_first = pushed.is_empty();
            if is_first && !is_whole {
                destination::check_mappings(request, self.images.iter(), progress);
            }
            let errors: Vec<Option<Error>> = trees.iter().map(|tree| tree.as_ref().err().cloned()).collect();
            let trees = references.into_iter().zip(trees).collect();
            let report = Box::pin(self.ends.push(trees, (!is_whole).then_some(&mut pushed_before))).await;
            if is_whole || (is_first && report.is_err()) {
                return report;
            }
            match report {
                Ok(report) => pushed.add(&numbers, report),
                // The images before these were pushed, and their reports must not be lost.
                Err(error) => pushed.fail(&numbers, errors, &error),
            }
            if is_last {
                return Ok(pushed.into_report());
            }
            progress.emit(Event::Phase {
                phase: Phase::Resolving,
                images: pushed.missing().count() as u64,
            });
        }
    }

    /// Returns the images of a batch that can be pushed before the last batch, and adds the others to `held_back`. Returns none if
    /// only errors would be left.
    fn hold_back(&self, batch: Vec<Resolved>, held_back: &mut Vec<Resolved>) -> Vec<Resolved> {
        let (numbers, trees): (Vec<usize>, Vec<_>) = batch.into_iter().unzip();
        let are_final = self.resolver.are_final(&trees);
        let is_any = trees
            .iter()
            .zip(&are_final)
            .any(|(tree, is_final)| *is_final && tree.is_ok());
        let mut batch = Vec::new();
        for (resolved, is_final) in numbers.into_iter().zip(trees).zip(are_final) {
            match is_final && is_any {
                true => batch.push(resolved),
                false => held_back.push(resolved),
            }
        }
        batch
    }
}

/// What the batches of a run that were pushed add up to.
struct Pushed<'a> {
    images: &'a [Reference],
    /// Reports of the requested images, in the order of the request.
    reports: Vec<Option<ImageReport>>,
    lock: Option<Lock>,
    /// Whether a batch has no lock, so that the run has none.
    is_lockless: bool,
    warnings: Warnings,
}

impl<'a> Pushed<'a> {
    fn new(images: &'a [Reference]) -> Self {
        Self {
            images,
            reports: images.iter().map(|_| None).collect(),
            lock: None,
            is_lockless: false,
            warnings: Warnings::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.reports.iter().all(Option::is_none)
    }

    /// The numbers of the images without a report.
    fn missing(&self) -> impl Iterator<Item = usize> {
        let reports = self.reports.iter().enumerate();
        reports.filter_map(|(number, report)| report.is_none().then_some(number))
    }

    /// Adds the report of a batch. `numbers` are those of its images.
    fn add(&mut self, numbers: &[usize], report: PushReport) {
        // The names of the images are different, so that each has one report.
        for (number, report) in numbers.iter().zip(report.images) {
            self.reports[*number] = Some(report);
        }
        self.warnings.append(report.warnings);
        match (&mut self.lock, report.lock) {
            (Some(lock), Some(more)) => lock.images.extend(more.images),
            (None, Some(first)) => self.lock = Some(first),
            (_, None) => self.is_lockless = true,
        }
    }

    /// Marks the pushed images whose registry has turned out to list referrers that were not pushed with them.
    fn mark_doubted(&mut self, resolver: &Resolver, progress: &Progress) {
        for (image, report) in self.images.iter().zip(&mut self.reports) {
            if let Some(report) = report
                && report.error.is_none()
                && report
                    .original
                    .as_ref()
                    .is_some_and(|root| resolver.doubts_referrers(image, root))
            {
                report.referrers_lost = true;
                progress.warn(format!(
                    "`{image}` may lack referrers: when it was pushed, `{}` answered as if it listed none",
                    image.host()
                ));
            }
        }
    }

    /// Adds a batch of which nothing was pushed. `errors` are those of images that could not be resolved.
    fn fail(&mut self, numbers: &[usize], errors: Vec<Option<Error>>, error: &Error) {
        for (number, own) in numbers.iter().zip(errors) {
            let error = own.unwrap_or_else(|| error.clone());
            self.reports[*number] = Some(ImageReport::unresolved(&self.images[*number], &error));
        }
    }

    /// Returns a line on the images that are not waited for: those without a report, except the ones that are pushed `next`.
    fn unresolved(&self, next: &[usize]) -> String {
        let next: HashSet<&usize> = next.iter().collect();
        let mut count = 0;
        let mut hosts = BTreeSet::new();
        for number in self.missing().filter(|number| !next.contains(number)) {
            count += 1;
            hosts.insert(self.images[number].host());
        }
        let images = counted(count, "image", "images");
        let verb = if count == 1 { "is" } else { "are" };
        let hosts = few(hosts.into_iter().map(|host| format!("`{host}`")));
        format!("{images} of {hosts} {verb} not resolved yet; pushing the resolved images first")
    }

    fn into_report(mut self) -> PushReport {
        self.lock = self.lock.filter(|_| !self.is_lockless);
        if let Some(lock) = &mut self.lock {
            let numbered = self.images.iter().enumerate();
            let numbers: HashMap<&Reference, usize> = numbered.map(|(number, image)| (image, number)).collect();
            lock.images.sort_by_key(|image| numbers.get(&image.reference).copied());
        }
        PushReport {
            lock: self.lock,
            warnings: self.warnings,
            ..PushReport::new(false, self.reports.into_iter().flatten().collect())
        }
    }
}

/// Returns the images that are resolved by now, and whether they are the last ones. Without `may_split`, waits for all.
async fn next_batch(resolved: &mut mpsc::UnboundedReceiver<Resolved>, may_split: bool) -> (Vec<Resolved>, bool) {
    let mut batch = Vec::new();
    let mut is_any = false;
    loop {
        // Without a resolved image there is nothing to push yet.
        let next = match may_split && is_any {
            true => within_five_seconds(resolved.recv()).await,
            false => Some(resolved.recv().await),
        };
        match next {
            Some(Some((number, tree))) => {
                is_any |= tree.is_ok();
                batch.push((number, tree));
            }
            Some(None) => return (batch, true),
            None => return (batch, false),
        }
    }
}

/// Returns whether some images can be pushed before the others are resolved. They cannot if an image that is resolved later
/// may refuse or stop the whole run: by its name at the destination, or since it fails. They also cannot if an image is pushed to
/// a repository that is a source: an image that is resolved later would be another one.
fn may_split(images: &[Reference], request: &PushRequest) -> bool {
    if request.dry_run || request.fail_fast || request.platform_tags {
        return false;
    }
    let sources: HashSet<String> = images.iter().map(Reference::name).collect();
    let mut names = HashSet::new();
    images.iter().all(|image| {
        let name = destination::name_of_reference(request, image);
        name.is_ok_and(|name| !sources.contains(&name.name()) && names.insert(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::Digest;

    #[test]
    fn images_are_pushed_in_batches_only_if_none_can_refuse_or_stop_the_others() {
        let batches = |images: &[&str], change: fn(&mut PushRequest)| {
            let mut request = PushRequest::new("r.example/mirror".parse().unwrap());
            change(&mut request);
            let images: Vec<Reference> = images.iter().map(|image| image.parse().unwrap()).collect();
            may_split(&images, &request)
        };
        let images = ["a.example/x:1", "b.example/y:1", "b.example/y:2"];
        assert!(batches(&images, |_| ()));
        assert!(!batches(&images, |request| request.dry_run = true));
        assert!(!batches(&images, |request| request.fail_fast = true));
        assert!(!batches(&images, |request| request.platform_tags = true));
        // Two sources of one name, and names that may state two digests for one tag.
        assert!(!batches(&["a.example/x:1", "b.example/x:1"], |_| ()));
        let pinned = format!("a.example/x:1@{}", Digest::sha256(b""));
        assert!(!batches(&["a.example/x:1", &pinned], |_| ()));
        // A mapping that leads two images to one name, and one that gives no name.
        let map: fn(&mut PushRequest) = |request| request.mappings = vec!["b.example/y=x".parse().unwrap()];
        assert!(!batches(&["a.example/x:1", "b.example/y:1"], map));
        assert!(batches(&images[..1], map) && batches(&images[1..], map));
        let all: fn(&mut PushRequest) = |request| request.mappings = vec!["b.example=".parse().unwrap()];
        assert!(batches(&images, all));
        // An image that would be pushed over its own source.
        assert!(!batches(&["r.example/mirror/x:1"], |request| {
            request.mappings = vec!["r.example/mirror=".parse().unwrap()];
        }));
        // An image that would be pushed over the source of another one.
        let promote: fn(&mut PushRequest) = |request| {
            request.destination = "r.example".parse().unwrap();
            let mappings = ["r.example/dev=staging", "r.example/staging=prod"];
            request.mappings = mappings.iter().map(|mapping| mapping.parse().unwrap()).collect();
        };
        let chain = ["r.example/dev/app:1", "r.example/staging/app:1"];
        assert!(!batches(&chain, promote) && batches(&chain[..1], promote) && batches(&chain[1..], promote));
    }

    #[test]
    fn a_run_of_which_one_batch_has_no_lock_has_none() {
        let images: Vec<Reference> = ["a.example/x:1", "b.example/y:1"]
            .map(|image| image.parse().unwrap())
            .into();
        for (locks, has_lock) in [([true, true], true), ([true, false], false), ([false, true], false)] {
            let mut pushed = Pushed::new(&images);
            for (number, has_lock) in locks.into_iter().enumerate() {
                let error = Error::internal("not pushed");
                let mut report = PushReport::new(false, vec![ImageReport::unresolved(&images[number], &error)]);
                report.lock = has_lock.then(|| Lock::from_images(true, Vec::new(), Vec::new()));
                pushed.add(&[number], report);
            }
            assert_eq!(pushed.into_report().lock.is_some(), has_lock, "{locks:?}");
        }
        // A batch that failed as a whole says nothing about the lock of the others.
        let mut pushed = Pushed::new(&images);
        let mut report = PushReport::new(false, Vec::new());
        report.lock = Some(Lock::from_images(true, Vec::new(), Vec::new()));
        pushed.add(&[], report);
        pushed.fail(&[0, 1], vec![None, None], &Error::internal("not pushed"));
        assert!(pushed.into_report().lock.is_some());
    }
}
