package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/store/sqlstore"
)

// OpenShards opens the stores of the settings for a command that runs beside the
// servers, and fails where one is not there or not of this binary's schema.
// Whoever calls it closes them with what it returns.
func (c *Config) OpenShards(ctx context.Context) (_ []shards.Shard, release func() error, err error) {
	settings, err := c.ShardList()
	if err != nil {
		return nil, nil, err
	}
	list := mapOf(settings)
	for i := range settings {
		st, err := sqlstore.Open(ctx, settings[i].MySQL)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("open the store: shard %s: %w", settings[i].Name, err), closeShards(list))
		}
		list[i].Store = st
	}
	return list, func() error { return closeShards(list) }, nil
}
