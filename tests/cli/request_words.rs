//! Refusals whose hint depends on the request: a pull, a push, a request for a token, an address that the registry names.

use super::hints::{Condition, answer, with};
use super::support::Auth;
use super::support::fault::{Action, LocationForm, When};

pub(super) const WORDS_OF_REQUESTS: &[Condition] = &[
    Condition {
        name: "a quota in the words of Harbor",
        registry: || {
            with(
                When::path("/blobs/uploads/").but_not("mount"),
                Action::error(
                    403,
                    "DENIED",
                    "adding 1.0 MiB of storage resource, which when updated to current usage of 10.0 GiB will exceed the configured \
                     upper limit of 10.0 GiB.",
                ),
            )
        },
        push: true,
        code: 4,
        says: &["configured upper limit", "hint: the registry has no more room"],
        not: &["lacks permission for this"],
        lines: 5,
    },
    Condition {
        name: "a registry without room on its disk in a pull",
        registry: || with(When::get("/manifests/"), answer(507, "")),
        push: false,
        code: 1,
        says: &["507", "has no room left on its disk"],
        not: &["for this project"],
        lines: 4,
    },
    Condition {
        name: "a pull that the registry does not allow",
        registry: || with(When::get("/manifests/"), answer(405, "")),
        push: false,
        code: 1,
        says: &["405", "no registry answers so"],
        not: &["takes no pushes"],
        lines: 4,
    },
    Condition {
        name: "a proxy that wants a login",
        registry: || with(When::any(), answer(407, "")),
        push: false,
        code: 1,
        says: &["407", "HTTPS_PROXY"],
        not: &[],
        lines: 4,
    },
    Condition {
        name: "a status that says nothing about the image",
        registry: || with(When::get("/manifests/"), answer(418, "")),
        push: false,
        code: 1,
        says: &["418", "5 images: "],
        not: &[],
        lines: 4,
    },
    Condition {
        name: "a challenge by a scheme that no login answers",
        registry: || with(When::any(), Action::challenge(&["Negotiate"])),
        push: false,
        code: 3,
        says: &["asks for Negotiate, which is not supported", "a login does not help"],
        not: &["does not say in which form", "docker login"],
        lines: 4,
    },
    Condition {
        name: "a token server without an address",
        registry: || with(When::any(), Action::challenge(&["Bearer realm=\"127.0.0.1:1/token\""])),
        push: false,
        code: 1,
        says: &["`127.0.0.1:1/token` for a token, which is no address", "`realm`"],
        not: &["requires a login", "docker login"],
        lines: 4,
    },
    Condition {
        name: "a token server that is not there",
        registry: || with(When::path("/token"), answer(404, "404 page not found")).auth(Auth::anonymous()),
        push: false,
        code: 1,
        says: &[
            "cannot get a token for `",
            "/token: `",
            "404 Not Found",
            "may not be a token server",
        ],
        not: &["check the name"],
        lines: 4,
    },
    Condition {
        name: "a token server that allows no requests",
        registry: || with(When::path("/token"), answer(405, "")).auth(Auth::anonymous()),
        push: false,
        code: 1,
        says: &["cannot get a token for `", "405", "may not be a token server"],
        not: &["takes no pushes"],
        lines: 4,
    },
    Condition {
        name: "an address for uploads at which nobody listens",
        registry: || {
            let elsewhere = LocationForm::Elsewhere("http://127.0.0.1:1".to_owned());
            with(When::post("/blobs/uploads/"), Action::Location(elsewhere))
        },
        push: true,
        code: 1,
        says: &["the registry sends uploads to `http://127.0.0.1:1`: have it told the address"],
        not: &["check host and port"],
        lines: 12,
    },
];
