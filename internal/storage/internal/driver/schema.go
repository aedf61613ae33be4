package driver

import (
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
)

// SchemaSetting is the setting that says which versions can use the schema: the last step that was
// made, and the oldest step that a version must know.
const SchemaSetting = "schema"

// Schema is the steps of a database's schema that this version knows, oldest first.
type Schema struct{ steps []string }

// ReadSchema reads the files *.sql, whose names begin with their numbers.
func ReadSchema(files fs.FS) (s Schema, err error) {
	names, err := fs.Glob(files, "*.sql") // sorted
	for i := 0; err == nil && i < len(names); i++ {
		var number int
		if _, err := fmt.Sscanf(names[i], "%03d_", &number); err != nil || number != i+1 {
			return s, fmt.Errorf("the step %s of the schema is not number %d", names[i], i+1)
		}
		var text []byte
		text, err = fs.ReadFile(files, names[i])
		s.steps = append(s.steps, string(text))
	}
	return s, err
}

// Version returns the number of the newest step.
func (s Schema) Version() int64 { return int64(len(s.steps)) }

// Steps returns the texts of all steps.
func (s Schema) Steps() []string { return s.steps }

// Step returns the text of a step.
func (s Schema) Step(number int64) string { return s.steps[number-1] }

var needs = regexp.MustCompile(`(?m)^-- needs: (\d+)$`)

// Note returns the value of SchemaSetting after a step.
func (s Schema) Note(version int64) string {
	least := 0
	for _, step := range s.steps[:version] {
		for _, found := range needs.FindAllStringSubmatch(step, -1) {
			n, _ := strconv.Atoi(found[1]) // digits
			least = max(least, n)
		}
	}
	return fmt.Sprintf("%d %d", version, least)
}

// Accept refuses a schema that is newer than this version, unless its note says that the later
// steps only expanded it. It ignores a note for another version of the schema.
func (s Schema) Accept(version int64, note string) error {
	if version <= s.Version() {
		return nil
	}
	var noted, least int64
	_, err := fmt.Sscanf(note, "%d %d", &noted, &least)
	switch {
	case err != nil || noted != version:
		return fmt.Errorf("it was made by a newer version of Sheaf (schema %d; this version knows up to %d), and it is unknown whether this version can use it; start the newer version; nothing was changed", version, s.Version())
	case least > s.Version():
		return fmt.Errorf("it was made by a newer version of Sheaf (schema %d; this version knows up to %d), which removed parts that versions before schema %d use; start a newer version; nothing was changed", version, s.Version(), least)
	}
	return nil
}
