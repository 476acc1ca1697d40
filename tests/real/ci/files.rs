//! What the files of `docs/ci` say, each read as its system reads it.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Password of the login at the destination; no log may show it.
pub(super) const PASSWORD: &str = "shown-in-no-log";

/// Two stages.
pub(super) struct Pipeline {
    pub(super) name: String,
    /// Variables of all jobs, in the order in which they may use each other.
    pub(super) environment: Vec<(String, String)>,
    pub(super) fetch: Stage,
    pub(super) push: Stage,
}

/// One job.
#[derive(Default)]
pub(super) struct Stage {
    /// Scripts that a shell runs one after the other.
    pub(super) scripts: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// Paths that the next attempt finds again; `.` for the whole workspace.
    pub(super) kept: Vec<String>,
    /// Paths that the next stage gets.
    pub(super) handed_over: Vec<String>,
}

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ci").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap_or_else(|| panic!("no list: {value}"));
    list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn variables(value: &Value) -> Vec<(String, String)> {
    let map = value.as_object().into_iter().flatten();
    map.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

/// GitLab: `before_script` and `script` are one shell.
pub(super) fn gitlab(name: &str) -> Pipeline {
    let file = yaml(&text(name));
    let stage = |job: &str| {
        let job = &file[job];
        let lines = [strings(&job["before_script"]), strings(&job["script"])].concat();
        let kept = job.get("cache").map(|cache| strings(&cache["paths"]));
        Stage {
            scripts: vec![lines.join("\n")],
            environment: Vec::new(),
            kept: kept.unwrap_or_default(),
            handed_over: strings(&job["artifacts"]["paths"]),
        }
    };
    let mut environment = vec![
        ("CI_PROJECT_ID".to_owned(), "7".to_owned()),
        ("CI_PIPELINE_ID".to_owned(), "42".to_owned()),
        ("CI_JOB_TOKEN".to_owned(), "token".to_owned()),
        ("CI_PROJECT_DIR".to_owned(), "{workspace}".to_owned()),
    ];
    environment.extend(variables(&file["variables"]));
    Pipeline {
        name: name.to_owned(),
        environment,
        fetch: stage("fetch"),
        push: stage("push"),
    }
}

/// GitHub: each `run` is a shell of its own; the cache and the artifacts are steps.
pub(super) fn github(name: &str) -> Pipeline {
    let file = yaml(&text(name));
    let stage = |job: &str| {
        let mut stage = Stage::default();
        for step in file["jobs"][job]["steps"].as_array().unwrap() {
            if let Some(script) = step["run"].as_str() {
                stage.scripts.push(script.to_owned());
                // Secrets are empty here, as in a fork.
                let variables = variables(&step["env"]).into_iter();
                stage
                    .environment
                    .extend(variables.map(|(name, _)| (name, String::new())));
            }
            let path = step["with"]["path"].as_str().unwrap_or_default();
            let paths = path.lines().map(|path| path.trim().replace('~', "{home}"));
            match step["uses"].as_str().unwrap_or_default() {
                uses if uses.starts_with("actions/cache/save@") => stage.kept.extend(paths),
                uses if uses.starts_with("actions/upload-artifact@") => stage.handed_over.extend(paths),
                _ => {}
            }
        }
        stage
    };
    Pipeline {
        name: name.to_owned(),
        environment: variables(&file["env"]),
        fetch: stage("fetch"),
        push: stage("push"),
    }
}

/// Jenkins: the text between `'''` is a script; the workspace of an agent is kept.
pub(super) fn jenkins(name: &str) -> Pipeline {
    let text = text(name);
    let scripts: Vec<&str> = text
        .split("sh '''")
        .skip(1)
        .map(|rest| rest.split("'''").next().unwrap())
        .collect();
    let [fetch, push] = scripts[..] else {
        panic!("{name} has {} scripts", scripts.len())
    };
    // The text in quotes behind the first of these words.
    let quoted = |word: &str| {
        let rest = text
            .split(word)
            .nth(1)
            .unwrap_or_else(|| panic!("{name} has no {word}"));
        rest.trim_start_matches([':', ' ', '\'']).split('\'').next().unwrap()
    };
    let archived = quoted("archiveArtifacts artifacts")
        .split(", ")
        .map(str::to_owned)
        .collect();
    let login = vec![
        (quoted("usernameVariable").to_owned(), "user".to_owned()),
        (quoted("passwordVariable").to_owned(), PASSWORD.to_owned()),
    ];
    let assignments = text.lines().filter_map(|line| line.trim().split_once(" = '"));
    let mut environment = vec![("WORKSPACE".to_owned(), "{workspace}".to_owned())];
    environment.extend(assignments.map(|(name, value)| (name.to_owned(), value.trim_end_matches('\'').to_owned())));
    let stage = |script: &str, environment, handed_over| Stage {
        // Jenkins runs a script with `sh -xe`.
        scripts: vec![format!("set -x\n{script}")],
        environment,
        kept: vec![".".to_owned()],
        handed_over,
    };
    Pipeline {
        name: name.to_owned(),
        environment,
        fetch: stage(fetch, Vec::new(), archived),
        push: stage(push, login, Vec::new()),
    }
}

/// Tekton: a task has steps, each a container, and its volume stays.
pub(super) fn tekton(name: &str) -> Pipeline {
    let file = yaml(&text(name));
    let destination = file["spec"]["params"][0]["default"].as_str().unwrap();
    let stage = |number: usize| {
        let step = &file["spec"]["tasks"][number]["taskSpec"]["steps"][0];
        container(step, |text| {
            text.replace("$(params.destination)", destination)
                .replace("$(workspaces.bundle.path)", "{workspace}")
                .replace("$(workspaces.images.path)", "{workspace}")
                .replace("$(workspaces.credentials.path)", "{home}")
        })
    };
    Pipeline {
        name: name.to_owned(),
        environment: Vec::new(),
        fetch: stage(0),
        push: stage(1),
    }
}

/// Kubernetes: one job in each file; the volumes are folders here.
pub(super) fn kubernetes(fetch: &str, push: &str) -> Pipeline {
    let stage = |name: &str| {
        let job = yaml(&text(name));
        assert_eq!(job["kind"], "Job", "{name}");
        container(&job["spec"]["template"]["spec"]["containers"][0], |text| {
            text.replace("/bundle", "{workspace}")
                .replace("/images/", "{workspace}/")
                .replace("/credentials", "{home}")
        })
    };
    Pipeline {
        name: format!("{fetch} and {push}"),
        environment: Vec::new(),
        fetch: stage(fetch),
        push: stage(push),
    }
}

/// The command of a container, as one script.
fn container(container: &Value, replaced: impl Fn(&str) -> String) -> Stage {
    let words = [strings(&container["command"]), strings(&container["args"])].concat();
    let words: Vec<String> = words.iter().map(|word| format!("'{}'", replaced(word))).collect();
    let variables = container["env"].as_array().unwrap().iter();
    let variable = |field: &Value, name: &str| field[name].as_str().unwrap().to_owned();
    Stage {
        scripts: vec![words.join(" ")],
        environment: variables
            .map(|field| (variable(field, "name"), replaced(&variable(field, "value"))))
            .collect(),
        kept: vec![".".to_owned()],
        handed_over: vec![".".to_owned()],
    }
}
