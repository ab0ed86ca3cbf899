// Volcano's scheduler and the controllers that gangs need, in one file, chosen by the first argument.
// A module of its own beside the control plane's: it has another version of Kubernetes' libraries, and who needs no gangs never builds it.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	componentoptions "k8s.io/component-base/config/options"
	"k8s.io/klog/v2"
	controllers "volcano.sh/volcano/cmd/controller-manager/app"
	controlleroptions "volcano.sh/volcano/cmd/controller-manager/app/options"
	scheduler "volcano.sh/volcano/cmd/scheduler/app"
	scheduleroptions "volcano.sh/volcano/cmd/scheduler/app/options"
	_ "volcano.sh/volcano/pkg/controllers/podgroup"
	_ "volcano.sh/volcano/pkg/controllers/queue"
	_ "volcano.sh/volcano/pkg/scheduler/actions"
	_ "volcano.sh/volcano/pkg/scheduler/plugins"
	"volcano.sh/volcano/pkg/version"
)

var commands = map[string]func(*pflag.FlagSet) error{
	"controller-manager": runControllers,
	"scheduler":          runScheduler,
}

func main() {
	name := ""
	if len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = os.Args[1:]
	}
	run, known := commands[name]
	if !known {
		fmt.Fprintln(os.Stderr, "usage: volcano scheduler|controller-manager FLAGS")
		os.Exit(2)
	}
	klog.InitFlags(nil)
	utilfeature.DefaultMutableFeatureGate.AddFlag(pflag.CommandLine)
	err := run(pflag.CommandLine)
	klog.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runControllers(flags *pflag.FlagSet) error {
	chosen := controlleroptions.NewServerOption()
	chosen.AddFlags(flags, []string{"pg-controller", "queue-controller"})
	componentoptions.BindLeaderElectionFlags(&chosen.LeaderElection, flags)
	cliflag.InitFlags()
	if chosen.PrintVersion {
		version.PrintVersionAndExit()
	}
	if err := chosen.CheckOptionOrDie(); err != nil {
		return err
	}
	return controllers.Run(chosen)
}

func runScheduler(flags *pflag.FlagSet) error {
	chosen := scheduleroptions.NewServerOption()
	chosen.AddFlags(flags)
	componentoptions.BindLeaderElectionFlags(&chosen.LeaderElection, flags)
	// Its plugins and cache read the options from here.
	chosen.RegisterOptions()
	cliflag.InitFlags()
	if chosen.PrintVersion {
		version.PrintVersionAndExit()
	}
	if err := chosen.CheckOptionOrDie(); err != nil {
		return err
	}
	return scheduler.Run(chosen)
}
