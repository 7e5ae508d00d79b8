// Command go-client asks a server's API everything that the public Go client of API v2 can ask,
// which is also all that the Terraform provider asks. It ends with 1 at the first answer that is
// not as it should be, and if a call of the library is not tried here.
//
//	go-client URL TOKEN DEVICE
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"tailscale.com/client/tailscale/v2"
)

var (
	ctx   = context.Background()
	tried = map[string]bool{}
)

func fail(name string, format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, fmt.Sprintf(format, args...))
	os.Exit(1)
}

// done notes a call that needs to have worked.
func done(name string, err error) {
	tried[name] = true
	if err != nil {
		fail(name, "%v", err)
	}
}

// got notes a call, and returns what it gave.
func got[T any](name string, value T) T {
	tried[name] = true
	return value
}

// refused notes a call that needs to be answered with this status, and a sentence.
func refused(name string, status int, err error) {
	tried[name] = true
	var problem tailscale.APIError
	if !errors.As(err, &problem) || problem.Status != status || problem.Message == "" {
		fail(name, "wanted %d with a message, got %v", status, err)
	}
}

func hold(name string, ok bool, value any) {
	if !ok {
		fail(name, "is not as it was set: %+v", value)
	}
}

func devices(c *tailscale.Client, id string) {
	d := c.Devices()
	one := got("Devices.Get", must(d.Get(ctx, id)))
	hold("Devices.Get", one.NodeID == id && one.OS == "linux", one)
	done("Devices.SetName", d.SetName(ctx, id, "renamed"))
	done("Devices.SetTags", d.SetTags(ctx, id, []string{"tag:go"}))
	done("Devices.SetAuthorized", d.SetAuthorized(ctx, id, true))
	done("Devices.SetKey", d.SetKey(ctx, id, tailscale.DeviceKey{KeyExpiryDisabled: true}))
	done("Devices.SetIPv4Address", d.SetIPv4Address(ctx, id, "100.98.0.1"))
	done("Devices.SetSubnetRoutes", d.SetSubnetRoutes(ctx, id, []string{"10.1.0.0/16"}))
	routes := got("Devices.SubnetRoutes", must(d.SubnetRoutes(ctx, id)))
	hold("Devices.SubnetRoutes", slices.Equal(routes.Enabled, []string{"10.1.0.0/16"}), routes)
	wish := tailscale.DevicePostureAttributeRequest{Value: "gold"}
	done("Devices.SetPostureAttribute", d.SetPostureAttribute(ctx, id, "custom:tier", wish))
	told := got("Devices.GetPostureAttributes", must(d.GetPostureAttributes(ctx, id)))
	hold("Devices.GetPostureAttributes", told.Attributes["custom:tier"] == "gold", told)
	done("Devices.DeletePostureAttribute", d.DeletePostureAttribute(ctx, id, "custom:tier"))
	wish.Expiry = tailscale.Time{Time: time.Now().Add(time.Hour).Truncate(time.Second)}
	done("Devices.SetPostureAttribute", d.SetPostureAttribute(ctx, id, "custom:tier", wish))
	told = must(d.GetPostureAttributes(ctx, id))
	hold("Devices.SetPostureAttribute", told.Expiries["custom:tier"].Equal(wish.Expiry.Time), told)
	wish.Expiry = tailscale.Time{Time: time.Now()}
	refused("Devices.SetPostureAttribute", 400, d.SetPostureAttribute(ctx, id, "custom:tier", wish))
	whole := got("Devices.GetWithAllFields", must(d.GetWithAllFields(ctx, id)))
	hold("Devices.GetWithAllFields", whole.Name == "renamed.warren.internal" &&
		whole.Addresses[0] == "100.98.0.1" && whole.KeyExpiryDisabled &&
		slices.Equal(whole.Tags, []string{"tag:go"}) && len(whole.EnabledRoutes) == 1, whole)
	for value, count := range map[string]int{"tag:go": 1, "tag:none": 0} {
		found := must(d.List(ctx, tailscale.WithFilter("tags", []string{value, "tag:other"})))
		hold("Devices.List", len(got("Devices.List", found)) == count, found)
	}
	_, err := d.List(ctx, tailscale.WithFilter("colour", []string{"red"}))
	refused("Devices.List", 400, err)
	all := got("Devices.ListWithAllFields", must(d.ListWithAllFields(ctx)))
	hold("Devices.ListWithAllFields", len(all) == 1 && all[0].AdvertisedRoutes != nil, all)
	done("Devices.Delete", d.Delete(ctx, id))
	_, err = d.Get(ctx, id)
	refused("Devices.Get", 404, err)
}

func dns(c *tailscale.Client) {
	d := c.DNS()
	done("DNS.SetNameservers", d.SetNameservers(ctx, []string{"9.9.9.9"}))
	servers := got("DNS.Nameservers", must(d.Nameservers(ctx)))
	hold("DNS.Nameservers", slices.Equal(servers, []string{"9.9.9.9"}), servers)
	done("DNS.SetSearchPaths", d.SetSearchPaths(ctx, []string{"corp.example"}))
	paths := got("DNS.SearchPaths", must(d.SearchPaths(ctx)))
	hold("DNS.SearchPaths", slices.Equal(paths, []string{"corp.example"}), paths)
	split := tailscale.SplitDNSRequest{"a.example": {"10.0.0.1"}, "b.example": {"10.0.0.2"}}
	done("DNS.SetSplitDNS", d.SetSplitDNS(ctx, split))
	told := must(d.UpdateSplitDNS(ctx, tailscale.SplitDNSRequest{"b.example": nil}))
	hold("DNS.UpdateSplitDNS", len(got("DNS.UpdateSplitDNS", told)) == 1, told)
	hold("DNS.SplitDNS", len(got("DNS.SplitDNS", must(d.SplitDNS(ctx)))) == 1, told)
	done("DNS.SetPreferences", d.SetPreferences(ctx, tailscale.DNSPreferences{MagicDNS: false}))
	hold("DNS.Preferences", !got("DNS.Preferences", must(d.Preferences(ctx))).MagicDNS, "")
	wish := tailscale.DNSConfiguration{
		Nameservers: []tailscale.DNSConfigurationResolver{
			{Address: "2620:fe::fe", UseWithExitNode: true},
		},
		SplitDNS: map[string][]tailscale.DNSConfigurationResolver{
			"c.example": {{Address: "10.0.0.3"}},
		},
		SearchPaths: []string{"x.example"},
		Preferences: tailscale.DNSConfigurationPreferences{OverrideLocalDNS: true, MagicDNS: true},
	}
	done("DNS.SetConfiguration", d.SetConfiguration(ctx, wish))
	whole := got("DNS.Configuration", must(d.Configuration(ctx)))
	hold("DNS.Configuration", reflect.DeepEqual(*whole, wish), whole)
}

func keys(c *tailscale.Client) {
	k := c.Keys()
	var wish tailscale.CreateKeyRequest
	wish.Capabilities.Devices.Create.Reusable = true
	wish.Capabilities.Devices.Create.Tags = []string{"tag:go"}
	wish.ExpirySeconds = 3600
	made := got("Keys.Create", must(k.Create(ctx, wish)))
	second := got("Keys.CreateAuthKey", must(k.CreateAuthKey(ctx, wish)))
	hold("Keys.Create", made.Key != "" && made.ID != second.ID && made.KeyType == "auth", made)
	shown := got("Keys.Get", must(k.Get(ctx, made.ID)))
	hold("Keys.Get", shown.Key == "" && shown.Capabilities.Devices.Create.Reusable, shown)
	oauth := tailscale.CreateOAuthClientRequest{Scopes: []string{"devices:core:read"}}
	client := got("Keys.CreateOAuthClient", must(k.CreateOAuthClient(ctx, oauth)))
	program := &tailscale.Client{BaseURL: c.BaseURL, Auth: &tailscale.OAuth{
		ClientID: client.ID, ClientSecret: client.Key,
	}}
	must(program.Devices().List(ctx))
	_, err := program.DNS().Nameservers(ctx)
	refused("DNS.Nameservers", 403, err)
	other := tailscale.SetOAuthClientRequest{
		Scopes: []string{"dns:read"}, Tags: []string{"tag:x"}, Description: "names",
	}
	changed := got("Keys.SetOAuthClient", must(k.SetOAuthClient(ctx, client.ID, other)))
	hold("Keys.SetOAuthClient", slices.Equal(changed.Scopes, other.Scopes) &&
		slices.Equal(changed.Tags, other.Tags) && changed.Description == "names", changed)
	_, err = k.CreateFederatedIdentity(ctx, tailscale.CreateFederatedIdentityRequest{})
	refused("Keys.CreateFederatedIdentity", 400, err)
	_, err = k.SetFederatedIdentity(ctx, client.ID, tailscale.SetFederatedIdentityRequest{
		Scopes: []string{"dns:read"},
	})
	refused("Keys.SetFederatedIdentity", 400, err)
	all := got("Keys.List", must(k.List(ctx, true)))
	hold("Keys.List", len(all) >= 4, all)
	done("Keys.Delete", k.Delete(ctx, made.ID))
	_, err = k.Get(ctx, made.ID)
	refused("Keys.Get", 404, err)
}

func policy(c *tailscale.Client) {
	p := c.PolicyFile()
	raw := got("PolicyFile.Raw", must(p.Raw(ctx)))
	hold("PolicyFile.Raw", strings.Contains(raw.HuJSON, "//") && raw.ETag != "", raw)
	text := "{\n  // Web only.\n  \"grants\": [{\"src\": [\"*\"], \"dst\": [\"*\"], \"ip\": [\"443\"]}],\n}\n"
	done("PolicyFile.Validate", p.Validate(ctx, text))
	done("PolicyFile.Set", p.Set(ctx, text, raw.ETag))
	refused("PolicyFile.Set", 412, p.Set(ctx, text, raw.ETag))
	now := got("PolicyFile.Get", must(p.Get(ctx)))
	hold("PolicyFile.Get", len(now.Grants) == 1 && now.Grants[0].IP[0] == "443", now)
	now.Grants[0].IP = []string{"80"}
	after := got("PolicyFile.SetAndGet", must(p.SetAndGet(ctx, *now, now.ETag)))
	hold("PolicyFile.SetAndGet", after.Grants[0].IP[0] == "80" && after.ETag != now.ETag, after)
	if err := p.Validate(ctx, `{"grants": [{"src": ["group:x"]}]}`); err == nil {
		fail("PolicyFile.Validate", "took a policy that is wrong")
	}
}

func webhooks(c *tailscale.Client) {
	w := c.Webhooks()
	wish := tailscale.CreateWebhookRequest{
		EndpointURL:   "https://example.com/hook",
		ProviderType:  tailscale.WebhookSlackProviderType,
		Subscriptions: []tailscale.WebhookSubscriptionType{tailscale.WebhookNodeCreated},
	}
	made := got("Webhooks.Create", must(w.Create(ctx, wish)))
	hold("Webhooks.Create", made.Secret != nil && made.EndpointURL == wish.EndpointURL, made)
	id := made.EndpointID
	shown := got("Webhooks.Get", must(w.Get(ctx, id)))
	hold("Webhooks.Get", shown.Secret == nil && shown.ProviderType == "slack" &&
		shown.CreatorLoginName == "admin" && !shown.Created.IsZero(), shown)
	changed := must(w.Update(ctx, id, []tailscale.WebhookSubscriptionType{
		tailscale.WebhookCategoryTailnetManagement,
	}))
	hold("Webhooks.Update", len(got("Webhooks.Update", changed).Subscriptions) == 1, changed)
	turned := got("Webhooks.RotateSecret", must(w.RotateSecret(ctx, id)))
	hold("Webhooks.RotateSecret", turned.Secret != nil && *turned.Secret != *made.Secret, turned)
	hold("Webhooks.List", len(got("Webhooks.List", must(w.List(ctx)))) == 1, "")
	done("Webhooks.Test", w.Test(ctx, id))
	done("Webhooks.Delete", w.Delete(ctx, id))
	_, err := w.Get(ctx, id)
	refused("Webhooks.Get", 404, err)
}

func network(c *tailscale.Client) {
	s := c.TailnetSettings()
	wish := tailscale.UpdateTailnetSettingsRequest{
		DevicesApprovalOn: tailscale.PointerTo(true), DevicesKeyDurationDays: tailscale.PointerTo(30),
	}
	done("TailnetSettings.Update", s.Update(ctx, wish))
	told := got("TailnetSettings.Get", must(s.Get(ctx)))
	hold("TailnetSettings.Get", told.DevicesApprovalOn && told.DevicesKeyDurationDays == 30, told)
	role := tailscale.UserRoleOwner
	users := got("Users.List", must(c.Users().List(ctx, nil, &role)))
	hold("Users.List", len(users) == 1, users)
	one := got("Users.Get", must(c.Users().Get(ctx, users[0].ID)))
	hold("Users.Get", one.LoginName == "admin" && one.Role == role, one)
	email := tailscale.UpdateContactRequest{Email: tailscale.PointerTo("sec@corp.example")}
	done("Contacts.Update", c.Contacts().Update(ctx, tailscale.ContactSecurity, email))
	contacts := got("Contacts.Get", must(c.Contacts().Get(ctx)))
	hold("Contacts.Get", contacts.Security.Email == *email.Email, contacts)
}

// absent asks for what this server does not have.
func absent(c *tailscale.Client) {
	p, l, s, t := c.DevicePosture(), c.Logging(), c.Services(), c.Tailnets()
	done("DevicePosture.ListIntegrations", err(p.ListIntegrations(ctx)))
	refused("DevicePosture.CreateIntegration", 501,
		err(p.CreateIntegration(ctx, tailscale.CreatePostureIntegrationRequest{})))
	refused("DevicePosture.GetIntegration", 404, err(p.GetIntegration(ctx, "x")))
	refused("DevicePosture.UpdateIntegration", 404,
		err(p.UpdateIntegration(ctx, "x", tailscale.UpdatePostureIntegrationRequest{})))
	refused("DevicePosture.DeleteIntegration", 404, p.DeleteIntegration(ctx, "x"))
	log := tailscale.LogTypeConfig
	refused("Logging.LogstreamConfiguration", 404, err(l.LogstreamConfiguration(ctx, log)))
	refused("Logging.SetLogstreamConfiguration", 501,
		l.SetLogstreamConfiguration(ctx, log, tailscale.SetLogstreamConfigurationRequest{}))
	refused("Logging.DeleteLogstreamConfiguration", 404, l.DeleteLogstreamConfiguration(ctx, log))
	refused("Logging.CreateOrGetAwsExternalId", 501, err(l.CreateOrGetAwsExternalId(ctx, false)))
	refused("Logging.ValidateAWSTrustPolicy", 404, l.ValidateAWSTrustPolicy(ctx, "x", "y"))
	flows := l.GetNetworkFlowLogs(ctx,
		tailscale.NetworkFlowLogsRequest{Start: time.Now(), End: time.Now()},
		func(tailscale.NetworkFlowLog) error { return nil })
	tried["Logging.GetNetworkFlowLogs"] = true
	hold("Logging.GetNetworkFlowLogs", strings.Contains(fmt.Sprint(flows), "HTTP 501"), flows)
	done("Services.List", err(s.List(ctx)))
	refused("Services.CreateOrUpdate", 501, s.CreateOrUpdate(ctx, tailscale.Service{Name: "svc:x"}))
	refused("Services.Get", 404, err(s.Get(ctx, "svc:x")))
	refused("Services.Delete", 404, s.Delete(ctx, "svc:x"))
	refused("Tailnets.Create", 404, err(t.Create(ctx, tailscale.CreateTailnetRequest{})))
	refused("Tailnets.List", 404, err(t.List(ctx)))
	refused("Tailnets.Delete", 404, t.Delete(ctx))
}

func err[T any](_ T, problem error) error { return problem }

func must[T any](value T, problem error) T {
	if problem != nil {
		panic(problem) // with the line that asked
	}
	return value
}

// untried returns the library's calls that nothing here has tried.
func untried(c *tailscale.Client) (names []string) {
	own := reflect.TypeOf(c)
	for i := range own.NumMethod() {
		method := own.Method(i)
		if method.Type.NumIn() != 1 || method.Type.NumOut() != 1 {
			continue
		}
		resource := method.Type.Out(0)
		if resource.Kind() != reflect.Pointer || method.Name == "VIPServices" {
			continue // VIPServices: the older name of Services
		}
		for j := range resource.NumMethod() {
			name := resource.Method(j).Name
			if _, inherited := own.MethodByName(name); inherited {
				continue
			}
			if full := method.Name + "." + name; !tried[full] {
				names = append(names, full)
			}
		}
	}
	return names
}

func main() {
	at := must(url.Parse(os.Args[1]))
	c := &tailscale.Client{BaseURL: at, APIKey: os.Args[2]}
	devices(c, os.Args[3])
	dns(c)
	keys(c)
	policy(c)
	webhooks(c)
	network(c)
	absent(c)
	if names := untried(c); len(names) > 0 {
		fail("untried", "%s", strings.Join(names, ", "))
	}
	_, problem := (&tailscale.Client{BaseURL: at, APIKey: "wrong"}).Devices().List(ctx)
	refused("Devices.List", 401, problem)
	fmt.Println(len(tried), "calls")
}
