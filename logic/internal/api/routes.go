package api

import (
	"context"
	"slices"

	"github.com/starling-im/starling/common/token"
)

// handler answers a call with a status and a body, or an error.
type handler func(s *Server, ctx context.Context, c *call) (any, error)

// route is one row of the policy: who may call what. A route without roles that
// is not public is open to nobody.
type route struct {
	method, path string
	public       bool
	roles        []string
	counted      bool // as a message of the user, toward its limit
	do           handler
}

// routes is the whole API. Roles: everyone with a token acts for its own user;
// trusted ones may do so for others.
func routes() []route {
	everyone := []string{token.RoleUser, token.RoleOperator, token.RoleAdmin, token.RoleService}
	admins, staff := []string{token.RoleAdmin}, []string{token.RoleOperator, token.RoleAdmin}
	trusted := []string{token.RoleAdmin, token.RoleService}
	return []route{
		{method: "POST", path: "/v1/login", public: true, do: (*Server).login},
		{method: "POST", path: "/v1/tokens", roles: trusted, do: (*Server).mint},
		{method: "POST", path: "/v1/tokens/refresh", public: true, do: (*Server).refresh},
		{method: "POST", path: "/v1/tokens/revoke", roles: everyone, counted: true, do: (*Server).revoke},
		{method: "GET", path: "/v1/edges", roles: everyone, do: (*Server).edges},
		{method: "POST", path: "/v1/messages", roles: everyone, do: (*Server).send},
		{method: "GET", path: "/v1/conversations", roles: everyone, do: (*Server).conversations},
		{method: "GET", path: "/v1/conversations/:conv/messages", roles: everyone, do: (*Server).messages},
		{method: "GET", path: "/v1/conversations/:conv/receipts", roles: everyone, do: (*Server).receipts},
		{method: "POST", path: "/v1/groups", roles: everyone, counted: true, do: (*Server).createGroup},
		{method: "GET", path: "/v1/groups/:group", roles: everyone, do: (*Server).getGroup},
		{method: "PATCH", path: "/v1/groups/:group", roles: everyone, counted: true, do: (*Server).renameGroup},
		{method: "DELETE", path: "/v1/groups/:group", roles: everyone, counted: true, do: (*Server).dismissGroup},
		{method: "GET", path: "/v1/groups/:group/members", roles: everyone, do: (*Server).members},
		{method: "POST", path: "/v1/groups/:group/members", roles: everyone, counted: true, do: (*Server).addMembers},
		{method: "DELETE", path: "/v1/groups/:group/members/:user", roles: everyone, counted: true, do: (*Server).removeMember},
		{method: "PUT", path: "/v1/groups/:group/members/:user/role", roles: everyone, counted: true, do: (*Server).setRole},
		{method: "POST", path: "/v1/groups/:group/mute", roles: everyone, counted: true, do: (*Server).mute},
		{method: "GET", path: "/v1/users/:user/presence", roles: everyone, do: (*Server).presenceOf},
		{method: "POST", path: "/v1/presence", roles: everyone, do: (*Server).presences},
		{method: "GET", path: "/v1/sessions", roles: everyone, do: (*Server).sessions},
		{method: "DELETE", path: "/v1/sessions/:conn", roles: everyone, counted: true, do: (*Server).endSession},
		{method: "GET", path: "/v1/blocks", roles: everyone, do: (*Server).blocks},
		{method: "GET", path: "/v1/blocks/:user", roles: everyone, do: (*Server).getBlock},
		{method: "PUT", path: "/v1/blocks/:user", roles: everyone, counted: true, do: (*Server).putBlock},
		{method: "DELETE", path: "/v1/blocks/:user", roles: everyone, counted: true, do: (*Server).dropBlock},
		{method: "GET", path: "/v1/admin/bans", roles: staff, do: (*Server).bans},
		{method: "POST", path: "/v1/admin/bans", roles: admins, do: (*Server).putBan},
		{method: "DELETE", path: "/v1/admin/bans/:user", roles: admins, do: (*Server).dropBan},
		{method: "POST", path: "/v1/admin/kick", roles: admins, do: (*Server).kick},
		{method: "GET", path: "/v1/admin/stats", roles: staff, do: (*Server).stats},
		{method: "GET", path: "/v1/admin/nodes", roles: staff, do: (*Server).nodes},
		{method: "POST", path: "/v1/admin/nodes/:id/drain", roles: staff, do: (*Server).drain},
		{method: "GET", path: "/v1/admin/settings", roles: staff, do: (*Server).settings},
		{method: "PUT", path: "/v1/admin/settings", roles: admins, do: (*Server).putSettings},
		{method: "POST", path: "/v1/admin/broadcast", roles: admins, do: (*Server).broadcast},
		{method: "GET", path: "/v1/operations", roles: everyone, do: (*Server).operationByKey},
		{method: "GET", path: "/v1/operations/:id", roles: everyone, do: (*Server).operation},
		{method: "GET", path: "/openapi.json", public: true, do: (*Server).openAPI},
		{method: "GET", path: "/healthz", public: true, do: (*Server).healthz},
		{method: "GET", path: "/readyz", public: true, do: (*Server).readyz},
	}
}

// allowed says whether a caller with these claims may use the route.
func (r *route) allowed(c token.Claims) bool {
	return slices.ContainsFunc(r.roles, c.Has)
}

// register puts the table into hertz; what is in no row is not found, or the page.
func (s *Server) register() {
	for _, r := range routes() {
		s.h.Handle(r.method, r.path, s.serve(&r))
	}
	s.h.NoRoute(s.serve(&route{path: "other", public: true, do: (*Server).other}))
}
