package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestDeployments: sheaf serve accepts the settings in the files of deploy/ and examples/.
func TestDeployments(t *testing.T) {
	root := filepath.Join("..", "..")
	read := func(name string, value any) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, value); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var compose struct {
		Services map[string]struct {
			Command     []string
			Environment map[string]string
			Networks    map[string]struct {
				Address string `yaml:"ipv4_address"`
			}
		}
	}
	read("deploy/compose.yaml", &compose)
	var pod struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Name string
						Args []string
					}
				}
			}
		}
	}
	read("examples/sidecar/pod.yaml", &pod)
	unit, err := os.ReadFile(filepath.Join(root, "deploy/sheaf.service"))
	if err != nil {
		t.Fatal(err)
	}
	_, start, _ := strings.Cut(string(unit), "ExecStart=/usr/bin/sheaf ")
	start, _, _ = strings.Cut(start, "\n")
	image, err := os.ReadFile(filepath.Join(root, "deploy/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	_, settings, _ := strings.Cut(string(image), "\nENV ")
	settings, _, _ = strings.Cut(settings, "\n")

	inImage := strings.Fields(settings)
	type command struct{ args, environ []string }
	all := map[string]command{
		"sheaf.service": {args: strings.Fields(strings.ReplaceAll(start, "/etc/sheaf/", filepath.Join(root, "deploy")+"/"))},
		"Dockerfile":    {args: []string{"serve", "--upstream", "http://127.0.0.1/", "--auth", "keys=keys.json"}, environ: inImage},
	}
	for _, node := range []string{"node1", "node2", "node3"} {
		environ := slices.Clone(inImage)
		for name, value := range compose.Services[node].Environment {
			environ = append(environ, name+"="+value)
		}
		all[node] = command{compose.Services[node].Command, environ}
		balancer := compose.Services["balancer"].Networks["default"].Address
		if trusted := compose.Services[node].Environment["SHEAF_TRUSTED_PROXY"]; balancer == "" || trusted != balancer+"/32" {
			t.Errorf("%s trusts %q, and the balancer is %q", node, trusted, balancer)
		}
	}
	for _, c := range pod.Spec.Template.Spec.Containers {
		if c.Name == "sheaf" {
			all["pod.yaml"] = command{c.Args, inImage}
		}
	}
	if len(all) != 6 {
		t.Fatalf("found %v", slices.Sorted(maps.Keys(all)))
	}
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			if len(c.args) == 0 || c.args[0] != "serve" {
				t.Fatalf("the arguments are %q", c.args)
			}
			var stdout, stderr bytes.Buffer
			args := append([]string{"config", "check"}, c.args[1:]...)
			if code := run(t.Context(), args, c.environ, &stdout, &stderr); code != exitOK || stderr.Len() > 0 {
				t.Errorf("sheaf %s: exit code %d\n%s", strings.Join(args, " "), code, stderr.String())
			}
		})
	}
}
