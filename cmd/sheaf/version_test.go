package main

import (
	"runtime/debug"
	"testing"

	"github.com/sheafapi/sheaf"
)

func TestVersion(t *testing.T) {
	linked := sheaf.Version
	t.Cleanup(func() { sheaf.Version = linked })
	module := func(v string) *debug.BuildInfo { return &debug.BuildInfo{Main: debug.Module{Version: v}} }
	for _, c := range []struct {
		linked string
		info   *debug.BuildInfo
		want   string
	}{
		{"dev", nil, "dev"},
		{"dev", module(""), "dev"},
		{"dev", module("(devel)"), "dev"},
		{"dev", module("v1.2.3"), "v1.2.3"},
		{"v2.0.0", module("v1.2.3"), "v2.0.0"},
	} {
		sheaf.Version = c.linked
		if got := version(c.info); got != c.want {
			t.Errorf("linked %s, built as %+v: got %s, want %s", c.linked, c.info, got, c.want)
		}
	}
}

func TestCommit(t *testing.T) {
	setting := func(key, value string) debug.BuildSetting { return debug.BuildSetting{Key: key, Value: value} }
	for _, c := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{nil, "unknown"},
		{&debug.BuildInfo{}, "unknown"},
		{&debug.BuildInfo{Settings: []debug.BuildSetting{setting("vcs.revision", "abc"), setting("vcs.modified", "false")}}, "abc"},
		{&debug.BuildInfo{Settings: []debug.BuildSetting{setting("vcs.revision", "abc"), setting("vcs.modified", "true")}}, "abc (modified)"},
	} {
		if got := commit(c.info); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.info, got, c.want)
		}
	}
}
