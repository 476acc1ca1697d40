//! Tests of the order in which permits are granted, and that no request exceeds the limit.

use super::*;
use futures_util::FutureExt;

/// Creates a limiter with a fixed number of bodies, and the same number of requests in total.
fn limiter(bodies: usize) -> Limiter {
    Limiter::new(bodies, Pace::fixed(bodies))
}

fn under_way(limiter: &Limiter) -> usize {
    limiter.0.state.lock().under_way()
}

#[tokio::test]
async fn places_are_given_in_the_order_in_which_they_were_asked_for() {
    let limiter = limiter(4);
    let mut held: Vec<_> = Vec::new();
    for _ in 0..4 {
        held.push(limiter.permit(Use::Download).await);
    }
    held[0].went_wrong();
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting: Vec<_> = (0..6)
        .map(|number| {
            let (limiter, sender) = (limiter.clone(), sender.clone());
            Box::pin(async move {
                let permit = limiter.permit(Use::Download).await;
                sender.send(number).unwrap();
                drop(permit);
            })
        })
        .collect();
    for future in &mut waiting {
        assert!(future.now_or_never().is_none());
    }
    // Two of four places are gone with the shrinking, and all that come back at once wake a waiting task.
    drop(held);
    let tasks: Vec<_> = waiting.into_iter().rev().map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let order: Vec<i32> = std::iter::from_fn(|| order.try_recv().ok()).collect();
    assert_eq!(order.len(), 6);
    assert!(order[..2].iter().all(|n| *n < 2), "{order:?}");
    assert!(order[4..].iter().all(|n| *n >= 2), "{order:?}");
    assert_eq!((under_way(&limiter), limiter.limit(), limiter.peak()), (0, 2, 4));
}

#[tokio::test]
async fn shrinks_once_per_trouble() {
    let limiter = limiter(8);
    let mut together = Vec::new();
    for _ in 0..8 {
        together.push(limiter.permit(Use::Upload).await);
    }
    together.iter_mut().for_each(Permit::went_wrong);
    assert_eq!(limiter.limit(), 4, "eight failures at once are one trouble");
    together[0].went_wrong();
    assert_eq!(limiter.limit(), 2, "the next one is another");
}

#[tokio::test]
async fn who_waits_for_an_answer_makes_room_but_never_all_of_them() {
    let limiter = Limiter::new(3, Pace::fixed(9));
    let mut permits = Vec::new();
    for waiting in [1, 2, 2, 2, 2] {
        let permit = limiter.permit(Use::Upload).await;
        permit.place().release();
        assert_eq!(limiter.0.state.lock().waiting, waiting);
        permits.push(permit);
    }
    assert_eq!(under_way(&limiter), 5, "three keep their places");
    // A request that is sent again waits in line like all other requests.
    let mut again = Box::pin(permits[0].acquire());
    assert!((&mut again).now_or_never().is_none());
    drop(again);
    permits.pop();
    permits[0].acquire().await;
    let state = |limiter: &Limiter| {
        let state = limiter.0.state.lock();
        (state.waiting, state.taken)
    };
    assert_eq!(state(&limiter), (1, [0, 0, 3]));
    permits[0].acquire().await;
    drop(permits);
    assert_eq!(state(&limiter), (0, [0, 0, 0]));
}

#[tokio::test]
async fn one_place_means_one_at_a_time() {
    let limiter = limiter(1);
    let permit = limiter.permit(Use::Upload).await;
    permit.place().release();
    assert!(limiter.permit(Use::Upload).now_or_never().is_none());
    drop(permit);
    let mut last = limiter.permit(Use::Upload).await;
    last.went_wrong();
    drop(last);
    assert_eq!((under_way(&limiter), limiter.limit()), (0, 1));
}

#[tokio::test]
async fn never_below_one_and_waiters_wake() {
    let limiter = limiter(2);
    let mut first = limiter.permit(Use::Download).await;
    first.went_wrong();
    first.went_wrong();
    first.went_wrong();
    assert_eq!(limiter.limit(), 1);
    let waiting = tokio::spawn({
        let limiter = limiter.clone();
        async move { limiter.permit(Use::Download).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(first);
    waiting.await.unwrap();
}

#[tokio::test]
async fn nothing_exceeds_the_limit_and_bodies_beyond_their_number_let_requests_pass() {
    let all = [Use::Request, Use::Download, Use::Upload];
    for held in all {
        for most in 1..4 {
            let limiter = limiter(most);
            let mut permits = Vec::new();
            for _ in 0..most {
                permits.push(limiter.permit(held).now_or_never().unwrap());
            }
            for what in all {
                assert!(
                    limiter.permit(what).now_or_never().is_none(),
                    "{what:?} beyond {most} {held:?}"
                );
            }
            permits.pop();
            for what in all {
                assert!(limiter.permit(what).now_or_never().is_some(), "{what:?} after {held:?}");
            }
            assert_eq!(limiter.peak(), most);
        }
    }

    let limiter = Limiter::new(1, Pace::fixed(3));
    let mut upload = limiter.permit(Use::Upload).await;
    let mut next = Box::pin(limiter.permit(Use::Upload));
    assert!((&mut next).now_or_never().is_none());
    let requests = [limiter.permit(Use::Request), limiter.permit(Use::Download)];
    let _requests = requests.map(|permit| permit.now_or_never().unwrap());
    upload.release();
    let next = (&mut next).now_or_never().unwrap();
    assert!(upload.acquire().now_or_never().is_none());
    drop(next);
    upload.acquire().now_or_never().unwrap();
    assert_eq!(limiter.peak(), 3);
}

#[tokio::test]
async fn uploads_that_wait_for_answers_count_against_the_limit() {
    let limiter = Limiter::new(4, Pace::fixed(4));
    let mut permits = Vec::new();
    for _ in 0..4 {
        let permit = limiter.permit(Use::Upload).await;
        permit.place().release();
        permits.push(permit);
    }
    assert!(limiter.permit(Use::Upload).now_or_never().is_none());
    // The answer has come, and the next piece of the same blob goes out: it does not wait for itself.
    permits[0].acquire().now_or_never().unwrap();
    permits.pop();
    assert!(limiter.permit(Use::Upload).now_or_never().is_some());
    assert_eq!(limiter.peak(), 4);
    // The same with a single place.
    let limiter = Limiter::new(4, Pace::fixed(1));
    let mut only = limiter.permit(Use::Upload).await;
    only.place().release();
    only.acquire().now_or_never().unwrap();
    only.release();
    assert_eq!(under_way(&limiter), 0);
    only.acquire().now_or_never().unwrap();
}

#[tokio::test]
async fn a_request_that_pauses_makes_room() {
    let limiter = limiter(1);
    let mut first = limiter.permit(Use::Request).await;
    first.release();
    let second = limiter.permit(Use::Request).now_or_never().unwrap();
    assert!(first.acquire().now_or_never().is_none());
    drop(second);
    first.acquire().now_or_never().unwrap();
    assert_eq!(under_way(&limiter), 1);
}

#[tokio::test]
async fn a_place_that_was_granted_to_a_dropped_wait_goes_to_the_next_one() {
    let limiter = limiter(1);
    let first = limiter.permit(Use::Request).await;
    let mut dropped = Box::pin(limiter.permit(Use::Request));
    let mut next = Box::pin(limiter.permit(Use::Request));
    assert!((&mut dropped).now_or_never().is_none());
    assert!((&mut next).now_or_never().is_none());
    drop(first);
    drop(dropped);
    assert!((&mut next).now_or_never().is_some());
}
