//! Uploads that another server redirects back to the registry: the registry gets them without the login.

use super::*;
use crate::support::fault::Canned;

/// Whoever leads an upload back marks the address.
const MARK: &str = "led=back";

fn to(status: u16, location: String) -> Action {
    Action::Answer(Canned {
        status,
        headers: vec![("location".to_owned(), location)],
        body: Vec::new(),
    })
}

/// A registry that wants a login and sends its uploads to `other`.
fn registry_before(other: &Double, auth: Auth) -> Double {
    Double::start(Options::default().auth(auth).fault(
        When::post("/blobs/uploads/"),
        Action::Location(LocationForm::Elsewhere(other.url().to_owned())),
    ))
}

/// Pushes a blob, and looks at all requests that were led back.
async fn push(registry: &Double, retries: u32) -> Error {
    let (mut options, _) = logged_in("user", "s3cret");
    options.retries = Some(retries);
    let bytes = noise(1000);
    let pushed = with(options, &registry.host())
        .push_blob("a/b", &layer(&bytes), &Memory(bytes.clone()), None)
        .await;
    let led: Vec<_> = registry.requests_of("*", MARK);
    assert!(!led.is_empty(), "nothing was led back: {}", registry.transcript());
    for request in led {
        let text = request.everything().to_lowercase();
        assert!(!text.contains("authorization"), "{text}");
    }
    pushed.unwrap_err()
}

fn logins() -> [Auth; 2] {
    [Auth::basic("user", "s3cret"), Auth::Bearer(Arc::new(private()))]
}

#[tokio::test]
async fn an_upload_that_is_redirected_back_has_no_login() {
    for auth in logins() {
        for status in [307, 308] {
            // By the PUT with the whole blob, and by the PATCH of a registry that does not accept such a PUT.
            for patch in [false, true] {
                let other = Double::new();
                let server = registry_before(&other, auth.clone());
                let back = format!("{}/v2/victim/blobs/uploads/1?{MARK}", server.url());
                if patch {
                    other.add_fault(When::put("/"), Action::status(405));
                }
                let method = if patch { "PATCH" } else { "PUT" };
                other.add_fault(When::method(method, "/"), to(status, back));
                let error = push(&server, 0).await;
                assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
                assert!(error.hint().unwrap().contains("another server led"), "{error:?}");
                assert!(error.full().contains(&server.host()), "{error:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_upload_that_comes_back_after_several_hops_has_no_login() {
    let (first, second) = (Double::new(), Double::new());
    // The registry itself redirects to a server, which redirects to another server, which redirects back.
    let server = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    server.add_fault(
        When::put("/blobs/uploads/").with_header("authorization"),
        to(307, format!("{}{{target}}", first.url())),
    );
    first.add_fault(When::any(), to(307, format!("{}{{target}}", second.url())));
    second.add_fault(When::any(), to(307, format!("{}{{target}}&{MARK}", server.url())));
    let error = push(&server, 0).await;
    assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
    assert!(first.requests().len() == 1 && second.requests().len() == 1);
}

/// Not by a redirect, but by the `Location` of an answer: every later step of the session goes to that server.
#[tokio::test]
async fn a_session_that_another_server_continues_at_the_registry_has_no_login() {
    for auth in logins() {
        for status in [201, 202, 204] {
            let other = Double::new();
            let server = registry_before(&other, auth.clone());
            let back = format!("{}/v2/victim/manifests/sha256:{}?{MARK}", server.url(), "a".repeat(64));
            other.add_fault(When::put("/"), Action::status(405));
            other.add_fault(When::patch("/"), to(status, back));
            push(&server, 0).await;
            // The session is closed there and cancelled there, neither with an authorization to change anything.
            assert_eq!(server.count("PUT", MARK), 1, "{}", server.transcript());
            assert_eq!(server.count("DELETE", MARK), 1, "{}", server.transcript());
        }
    }
}

#[tokio::test]
async fn a_session_whose_state_leads_to_the_registry_has_no_login() {
    let other = Double::new();
    let server = registry_before(&other, Auth::basic("user", "s3cret"));
    let back = format!("{}/v2/victim/blobs/uploads/1?{MARK}", server.url());
    other.add_fault(When::put("/"), Action::End(support::End::Close));
    let state = Canned::default()
        .with_header("location", &back)
        .with_header("range", "0-99");
    other.add_fault(When::get("/"), Action::Answer(Canned { status: 204, ..state }));
    push(&server, 1).await;
}

#[tokio::test]
async fn a_page_that_another_server_led_to_does_not_lead_on() {
    let server = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    fill(&server);
    let other = Double::new();
    other.add_fault(
        When::any(),
        to(307, format!("{}/v2/a/b/tags/list?{MARK}", server.url())),
    );
    server.add_fault(
        When::get("/tags/list").but_not(MARK).with_header("authorization"),
        to(307, format!("{}/x", other.url())),
    );
    let page = Canned {
        status: 200,
        headers: vec![("link".to_owned(), "</v2/a/b/tags/list?next>; rel=next".to_owned())],
        body: br#"{"tags":["1"]}"#.to_vec(),
    };
    server.add_fault(When::get(MARK), Action::Answer(page));
    let error = user(&server.host()).0.tags("a/b").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Server, "{error:?}");
    assert_eq!(server.count("GET", "?next"), 0, "{}", server.transcript());
}

/// The next run would take a saved session for an address that the registry chose itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_another_server_continues_at_the_registry_is_not_kept_for_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let other = Double::new();
    let server = registry_before(&other, Auth::basic("user", "s3cret"));
    let back = format!("{}/v2/victim/blobs/uploads/1?{MARK}", server.url());
    other.add_fault(When::put("/"), Action::status(405));
    other.add_fault(When::patch("/"), to(202, back));
    server.add_fault(When::put(MARK), Action::End(support::End::Stall));
    let (mut options, _) = logged_in("user", "s3cret");
    options.upload_sessions = Some(folder.path().to_owned());
    let registry = with(options, &server.host());
    // One piece. Smaller blobs are never continued by another run.
    let bytes = noise(1 << 20);
    let push = tokio::spawn(async move {
        let source = Memory(bytes.clone());
        registry.push_blob("a/b", &layer(&bytes), &source, None).await
    });
    let has_begun = || {
        assert!(!push.is_finished(), "{}", server.transcript());
        server.count("PUT", MARK) > 0
    };
    server.until("the PUT of the blob", has_begun).await;
    push.abort();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let kept = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!kept.contains(MARK), "{kept}");
        assert!(kept.contains(&other.host()), "the session before it: {kept}");
    }
}
