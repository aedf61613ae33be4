#!/bin/sh
# Print the predicate of a SLSA 1.0 provenance, which describes how a release was built. BUILDER
# identifies the builder, for example the URL of the CI job.
set -eu
commit=$(git rev-parse HEAD)
cat <<END
{
  "buildDefinition": {
    "buildType": "https://github.com/sheafapi/sheaf/blob/$commit/.goreleaser.yaml",
    "externalParameters": {"ref": "$(git describe --tags --always)"},
    "resolvedDependencies": [
      {"uri": "git+https://github.com/sheafapi/sheaf", "digest": {"gitCommit": "$commit"}},
      {"uri": "pkg:generic/go@$(go env GOVERSION)"},
      {"uri": "go.sum", "digest": {"sha256": "$(git show "$commit:go.sum" | sha256sum | cut -d ' ' -f 1)"}}
    ]
  },
  "runDetails": {
    "builder": {"id": "${BUILDER:-https://github.com/sheafapi/sheaf/blob/$commit/Makefile}"},
    "metadata": {"invocationId": "${BUILDER:-local}"}
  }
}
END
